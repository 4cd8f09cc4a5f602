//! Headers in which proxies say what they pass on.

use axum::http::{HeaderName, header};

pub(crate) const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
pub(crate) const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
pub(crate) const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
pub(crate) const X_ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
pub(crate) const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");

/// Headers that say something else than a proxy's id of a request: what it passes on from the client, and which request
/// it asks about.
const NO_IDS: [HeaderName; 12] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    header::COOKIE,
    header::HOST,
    header::USER_AGENT,
    header::CONTENT_LENGTH,
    HeaderName::from_static("x-forwarded-for"),
    X_FORWARDED_URI,
    X_FORWARDED_METHOD,
    X_ORIGINAL_URI,
    X_ORIGINAL_URL,
    X_ORIGINAL_METHOD,
];

/// Tells whether this header cannot be one in which proxies name requests.
pub(crate) fn has_another_meaning(name: &HeaderName) -> bool {
    NO_IDS.contains(name)
}
