//! Documents of others that an operator's setting points to, such as an identity provider's keys.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use url::Url;

use crate::client::{Http, NoAnswer, Reading};
use crate::near::is_near;

/// Until a connection stands, name resolution and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Until the document is read, connecting included.
const TIMEOUT: Duration = Duration::from_secs(5);
const DOCUMENT: Reading = Reading { statuses: &[200], bytes_max: 256 * 1024 };

/// Address of a document: https, or http at this machine or in a network of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentUrl(Uri);

/// A text that is no [`DocumentUrl`]. Does not show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DocumentUrlError {
    /// It is something else, or holds a password or a fragment.
    #[error("it must be an http or https URL without user and fragment")]
    NotAUrl,
    /// What comes by http anybody on the way may have written.
    #[error("http is taken for localhost, private addresses and names without a dot alone, use https")]
    InTheClear,
}

impl FromStr for DocumentUrl {
    type Err = DocumentUrlError;

    fn from_str(text: &str) -> Result<Self, DocumentUrlError> {
        let is_plain = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
                && url.fragment().is_none()
        };
        let url = Url::parse(text).ok().filter(is_plain).ok_or(DocumentUrlError::NotAUrl)?;
        if url.scheme() == "http" && !url.host().as_ref().is_some_and(is_near) {
            return Err(DocumentUrlError::InTheClear);
        }
        url.as_str().parse().map(Self).map_err(|_| DocumentUrlError::NotAUrl)
    }
}

impl fmt::Display for DocumentUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Reads documents. Follows no redirect: who is asked is what the operator wrote.
pub struct Documents(Http);

/// Reason why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// TLS has no settings to start from.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// Nothing came back in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// There is no connection, or no HTTP on it.
    #[error("no answer")]
    Failed(#[source] hyper_util::client::legacy::Error),
    /// Another answer than a document.
    #[error("the answer has status {0}")]
    Status(StatusCode),
    /// The document is too long, or broke off.
    #[error("the document is longer than {} KiB, or broke off", DOCUMENT.bytes_max / 1024)]
    Unreadable,
}

impl Documents {
    /// Connects to nobody yet. Trusts the certificates that the machine does, Mozilla's list where it has none.
    pub fn new() -> Result<Self, DocumentError> {
        Http::new(CONNECT_TIMEOUT, TIMEOUT).map(Self).map_err(DocumentError::Tls)
    }

    /// The document of JSON at this address; within 5 s, whatever is there.
    pub async fn read(&self, address: &DocumentUrl) -> Result<Bytes, DocumentError> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/json"))]);
        match self.0.get(address.0.clone(), headers, DOCUMENT).await {
            Ok(answer) if answer.status != StatusCode::OK => Err(DocumentError::Status(answer.status)),
            Ok(answer) => answer.body.ok_or(DocumentError::Unreadable),
            Err(NoAnswer::TimedOut) => Err(DocumentError::TimedOut),
            Err(NoAnswer::Failed(error)) => Err(DocumentError::Failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_read_in_the_clear_from_afar() {
        for good in [
            "https://tenant.eu.auth0.com/.well-known/jwks.json",
            "http://localhost:8080/realms/shop/protocol/openid-connect/certs",
            "http://keycloak/certs",
            "https://login.example/keys?appid=7",
        ] {
            assert_eq!(good.parse::<DocumentUrl>().unwrap().to_string(), good);
        }
        let clear = "http://id.example.org/certs".parse::<DocumentUrl>();
        assert_eq!(clear, Err(DocumentUrlError::InTheClear));
        for bad in ["", "id.example.org", "ftp://x/", "https://u:p@x/", "https://x/#k", "file:///etc/passwd"]
        {
            assert_eq!(bad.parse::<DocumentUrl>(), Err(DocumentUrlError::NotAUrl), "{bad}");
        }
    }
}
