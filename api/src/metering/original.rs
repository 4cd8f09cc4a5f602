//! The request that a proxy asks about, as its headers name it.
//!
//! Three proxies have three ways: `X-Forwarded-Uri` and `-Method` (Traefik, Caddy), `X-Original-URI` and `-Method`
//! (nginx), `X-Original-URL` and `-Method` (ingress-nginx). Clients can send each of them; what the proxy does not
//! overwrite is there as well, so several ways that do not agree are refused.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::http::problem::{Code, Problem};
use crate::http::proxied::{
    X_FORWARDED_METHOD, X_FORWARDED_URI, X_ORIGINAL_METHOD, X_ORIGINAL_URI, X_ORIGINAL_URL,
};

/// Longest id that a proxy may give a request, in bytes.
const MAX_ID_BYTES: usize = 255;

/// The request that the proxy asks about.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Original<'a> {
    /// Path and query.
    pub(super) uri: Cow<'a, str>,
    pub(super) method: &'a str,
}

/// The request as the proxy names it.
pub(super) fn original(headers: &HeaderMap) -> Result<Original<'_>, Problem> {
    let forwarded_uri = single(headers, &X_FORWARDED_URI)?.map(Cow::Borrowed);
    let forwarded = pair(forwarded_uri, single(headers, &X_FORWARDED_METHOD)?, "X-Forwarded")?;
    let uri = single(headers, &X_ORIGINAL_URI)?.map(Cow::Borrowed);
    let url = single(headers, &X_ORIGINAL_URL)?.map(uri_of).transpose()?;
    let original_uri = match (uri, url) {
        (Some(uri), Some(url)) if uri != url => {
            return Err(malformed("X-Original-URI and X-Original-URL say different things."));
        }
        (uri, url) => uri.or(url),
    };
    let original = pair(original_uri, single(headers, &X_ORIGINAL_METHOD)?, "X-Original")?;
    match (forwarded, original) {
        (Some(forwarded), Some(original)) if forwarded != original => Err(malformed(
            "X-Forwarded-Uri and -Method say something else than X-Original-URI (or -URL) and -Method.",
        )),
        (Some(original), _) | (None, Some(original)) => Ok(original),
        (None, None) => Err(malformed(
            "X-Forwarded-Uri and X-Forwarded-Method, or X-Original-URI (or X-Original-URL) and X-Original-Method, must \
             be set by the proxy.",
        )),
    }
}

/// The id that the proxy gave the request in this header.
///
/// One that cannot be used is told rather than passed over: a proxy that adds its id to the client's instead of
/// overwriting it would count calls twice and never learn why.
pub(super) fn request_id<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Problem> {
    let Some(id) = single_value(headers, name)? else { return Ok(None) };
    let id = id.as_bytes();
    if (1..=MAX_ID_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic) {
        return Ok(Some(id));
    }
    Err(malformed(&format!("{name} must be 1 to {MAX_ID_BYTES} visible ASCII characters.")))
}

fn pair<'a>(
    uri: Option<Cow<'a, str>>,
    method: Option<&'a str>,
    names: &str,
) -> Result<Option<Original<'a>>, Problem> {
    match (uri, method) {
        (Some(uri), Some(method)) => Ok(Some(Original { uri, method })),
        (None, None) => Ok(None),
        _ => Err(malformed(&format!("{names}'s URI and method must be set together."))),
    }
}

/// Path and query of an absolute URL. Its authority is the client's Host header: what could end it before the path
/// begins (`?`, `#`, a backslash) would choose the path.
fn uri_of(url: &str) -> Result<Cow<'_, str>, Problem> {
    let wrong = || malformed("X-Original-URL must be a path, or an absolute http URL of a plain host.");
    if url.starts_with('/') {
        return Ok(Cow::Borrowed(url));
    }
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(wrong());
    }
    let (authority, uri) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~:[]%".contains(&byte);
    if authority.is_empty() || !authority.bytes().all(is_plain) {
        return Err(wrong());
    }
    Ok(Cow::Borrowed(if uri.is_empty() { "/" } else { uri }))
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let Some(value) = single_value(headers, name)? else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes());
    text.map(Some).map_err(|_| malformed(&format!("{name} is not UTF-8.")))
}

/// A header's value; refused when it is there twice: whichever one is taken, the proxy may have meant the other.
fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(malformed(&format!("{name} is there more than once.")));
    }
    Ok(value)
}

fn malformed(detail: &str) -> Problem {
    Problem::malformed(Code::MalformedHeader, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn an_absolute_url_is_its_path_and_query() {
        let good = [
            ("https://api.example.com/api/analyze?x=1", "/api/analyze?x=1"),
            ("HTTP://h:8080//a/../b", "//a/../b"),
            ("http://[::1]:80/a?u=http://x/y", "/a?u=http://x/y"),
            ("https://h", "/"),
            ("/api/x?y", "/api/x?y"),
        ];
        for (url, uri) in good {
            let headers = headers(&[("x-original-url", url), ("x-original-method", "GET")]);
            assert_eq!(
                original(&headers).map(|original| original.uri.into_owned()).ok().as_deref(),
                Some(uri),
                "{url}"
            );
        }
    }

    /// A client chooses its Host, and ingress-nginx writes it into the URL.
    #[test]
    fn no_host_chooses_the_path() {
        for host in ["h?", "h#", "h\\", "h?x=", "u@h", "", "h h", "h/../.."] {
            let url = format!("https://{host}/api/analyze");
            let headers = headers(&[("x-original-url", &url), ("x-original-method", "GET")]);
            // A slash ends the host, as nginx lets none through.
            let path = original(&headers).map(|original| original.uri.into_owned());
            assert!(path.is_err() || host == "h/../..", "{url}: {:?}", path.ok());
        }
        for url in ["api/analyze", "ftp://h/a", "https:/h/a", "://h/a"] {
            assert!(
                original(&headers(&[("x-original-url", url), ("x-original-method", "GET")])).is_err(),
                "{url}"
            );
        }
    }

    #[test]
    fn an_id_is_one_of_visible_characters() {
        let name = HeaderName::from_static("x-id");
        let longest = "x".repeat(MAX_ID_BYTES);
        assert_eq!(request_id(&HeaderMap::new(), &name).ok(), Some(None));
        for good in ["a", "9c2f-~!\"", longest.as_str()] {
            let headers = headers(&[("x-id", good)]);
            assert_eq!(request_id(&headers, &name).ok(), Some(Some(good.as_bytes())), "{good}");
        }
        let too_long = format!("{longest}x");
        for bad in ["", "a b", "a\tb", "ä", too_long.as_str()] {
            assert!(request_id(&headers(&[("x-id", bad)]), &name).is_err(), "{bad:?}");
        }
        assert!(request_id(&headers(&[("x-id", "a"), ("x-id", "a")]), &name).is_err());
    }
}
