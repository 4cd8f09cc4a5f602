//! Asks a provider whether a token works: one read that costs nothing, judged by its status.
//!
//! The token goes to its provider in a header and nowhere else. Nothing that the provider answers is shown or logged,
//! for providers quote keys in their errors, apart from a token's scopes and expiry.

#[cfg(test)]
mod tests;
mod urls;
mod verdict;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::sync::Semaphore;
use vault::{SecretText, TokenKind};

use crate::client::{Http, NoAnswer, Reading};

pub use crate::base_url::UrlRefused;
pub use urls::ProviderUrls;

/// Until a connection stands, name resolution and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Until the answer is read, connecting included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What a provider says of a token that it refuses. It explains itself in far less.
const REFUSALS: Reading = Reading { statuses: &[400, 401, 403], bytes_max: 64 * 1024 };
/// Requests to providers that run at once in this process.
const REQUESTS_AT_ONCE: usize = 32;

/// A provider's word on a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenTest {
    /// The provider takes it. It may still not be allowed everything.
    Valid {
        /// Scopes of a GitHub token, where GitHub says so: it does of classic tokens only.
        scopes: Option<Vec<String>>,
        /// End of a GitHub token, where GitHub says so.
        expires_at: Option<DateTime<Utc>>,
    },
    /// The provider refuses it.
    Invalid,
    /// The provider did not say.
    Unknown(UnknownReason),
}

/// Reason why nobody knows whether a token works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownReason {
    /// The provider refuses to answer so often.
    RateLimited,
    /// No connection, or no HTTP on it.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// An answer that says nothing about the token: an error of the provider's, a redirect, a missing permission.
    UnexpectedStatus,
    /// The token holds something else than visible ASCII, so it cannot be sent. The provider was not asked.
    NotAHeaderValue,
    /// As many tests as may run at once do. The provider was not asked; again in a few seconds.
    Busy,
}

/// Asks providers. Cheap to clone; clones share one bound on what runs at once.
#[derive(Clone)]
pub struct Providers(Arc<Asking>);

struct Asking {
    urls: ProviderUrls,
    http: Http,
    slots: Semaphore,
}

/// Providers cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum ProvidersError {
    /// TLS has no settings to start from.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Bounds of a request's time, and of how many run at once.
#[derive(Clone, Copy)]
struct Bounds {
    connect: Duration,
    total: Duration,
    at_once: usize,
}

impl Providers {
    /// Connects to nobody yet. Trusts the certificates that the machine does, Mozilla's list where it has none.
    pub fn new(urls: ProviderUrls) -> Result<Self, ProvidersError> {
        Self::with(urls, Bounds { connect: CONNECT_TIMEOUT, total: TIMEOUT, at_once: REQUESTS_AT_ONCE })
    }

    fn with(urls: ProviderUrls, bounds: Bounds) -> Result<Self, ProvidersError> {
        let http = Http::new(bounds.connect, bounds.total).map_err(ProvidersError::Tls)?;
        Ok(Self(Arc::new(Asking { urls, http, slots: Semaphore::new(bounds.at_once) })))
    }

    /// Whether the provider takes this token. Answers within 10 s whatever the provider does, and never waits for
    /// other tests: beyond 32 at once the answer is [`UnknownReason::Busy`].
    pub async fn test(&self, kind: TokenKind, token: &SecretText) -> TokenTest {
        let Some(credential) = credential(kind, token) else {
            return TokenTest::Unknown(UnknownReason::NotAHeaderValue);
        };
        match self.0.slots.try_acquire() {
            Ok(_slot) => self.ask(kind, credential).await,
            Err(_) => TokenTest::Unknown(UnknownReason::Busy),
        }
    }

    async fn ask(&self, kind: TokenKind, credential: (HeaderName, HeaderValue)) -> TokenTest {
        const VERSION: HeaderName = HeaderName::from_static("anthropic-version");
        let Some(address) = self.0.urls.test_address(kind) else {
            return TokenTest::Unknown(UnknownReason::Unreachable);
        };
        let accept = match kind {
            TokenKind::Github => "application/vnd.github+json",
            TokenKind::Openai | TokenKind::Anthropic | TokenKind::Gemini => "application/json",
        };
        let mut headers = HeaderMap::from_iter([credential]);
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if kind == TokenKind::Anthropic {
            headers.insert(VERSION, HeaderValue::from_static("2023-06-01"));
        }
        match self.0.http.get(address, headers, REFUSALS).await {
            Ok(answer) => {
                let test = verdict::of(kind, &answer);
                if matches!(test, TokenTest::Unknown(_)) {
                    let status = answer.status.as_u16();
                    tracing::info!(provider = %kind, status, "a provider does not say whether a token works");
                }
                test
            }
            Err(NoAnswer::TimedOut) => {
                tracing::warn!(provider = %kind, "a provider does not answer in time");
                TokenTest::Unknown(UnknownReason::TimedOut)
            }
            Err(NoAnswer::Failed(error)) => {
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(provider = %kind, %error, cause, "a provider cannot be asked");
                TokenTest::Unknown(UnknownReason::Unreachable)
            }
        }
    }
}

/// The header that shows the token to its provider, or nothing when no header can carry the token. Blanks are refused
/// too: a receiver trims them at the ends, and would be asked about another token.
fn credential(kind: TokenKind, token: &SecretText) -> Option<(HeaderName, HeaderValue)> {
    let token = token.expose();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let (name, text) = match kind {
        TokenKind::Github | TokenKind::Openai => (header::AUTHORIZATION, format!("Bearer {token}")),
        TokenKind::Anthropic => (HeaderName::from_static("x-api-key"), token.to_owned()),
        TokenKind::Gemini => (HeaderName::from_static("x-goog-api-key"), token.to_owned()),
    };
    // Takes the text over, so that no further copy of the token stays behind.
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}
