//! Verdicts: what an answer says about the token. By the providers' documentation and, where that is silent, by
//! answers seen:
//!
//! * a key without a permission is not a wrong key, and some providers say 401 to both;
//! * a 403 can come from a firewall before anybody has looked at the key.

use chrono::{DateTime, Datelike, NaiveDateTime, Utc};
use http::HeaderMap;
use serde_json::Value;
use vault::TokenKind;

use super::{TokenTest, UnknownReason};
use crate::client::Answer;

const SCOPES_MAX: usize = 50;
const SCOPE_BYTES_MAX: usize = 100;

/// Judges an answer of the provider's.
pub(super) fn of(kind: TokenKind, answer: &Answer) -> TokenTest {
    match answer.status.as_u16() {
        200..=299 => valid(kind, answer),
        429 => TokenTest::Unknown(UnknownReason::RateLimited),
        status @ (400 | 401 | 403) => refusal(kind, status, answer),
        _ => TokenTest::Unknown(UnknownReason::UnexpectedStatus),
    }
}

fn valid(kind: TokenKind, answer: &Answer) -> TokenTest {
    let described = kind == TokenKind::Github;
    TokenTest::Valid {
        scopes: described.then(|| scopes(&answer.headers)).flatten(),
        expires_at: described.then(|| expires_at(&answer.headers)).flatten(),
    }
}

fn refusal(kind: TokenKind, status: u16, answer: &Answer) -> TokenTest {
    const UNEXPECTED: TokenTest = TokenTest::Unknown(UnknownReason::UnexpectedStatus);
    let body = answer.body.as_deref().and_then(|body| serde_json::from_slice(body).ok());
    let body: Value = body.unwrap_or_default();
    match (kind, status) {
        (TokenKind::Github, 403) if github_is_rate_limited(answer, &body) => {
            TokenTest::Unknown(UnknownReason::RateLimited)
        }
        // An app's or a fine-grained token that may not ask who it is.
        (TokenKind::Github, 403) if text(&body, "/message").starts_with("Resource not accessible by") => {
            valid(kind, answer)
        }
        // A restricted key that may not list models.
        (TokenKind::Openai, 401 | 403) if openai_message(&body).contains("Missing scopes") => {
            valid(kind, answer)
        }
        // The key works from other addresses.
        (TokenKind::Openai, 401) if text(&body, "/error/code") == "ip_not_authorized" => UNEXPECTED,
        (TokenKind::Gemini, 400 | 403) if gemini_names_the_key(&body) => TokenTest::Invalid,
        (_, 401) => TokenTest::Invalid,
        _ => UNEXPECTED,
    }
}

/// GitHub answers 403 as well as 429 beyond its limits.
fn github_is_rate_limited(answer: &Answer, body: &Value) -> bool {
    let none_left = answer.headers.get("x-ratelimit-remaining").is_some_and(|left| left == "0");
    none_left
        || answer.headers.contains_key("retry-after")
        || text(body, "/message").contains("secondary rate limit")
}

/// `error` is an object with a message, and of some endpoints the message itself.
fn openai_message(body: &Value) -> &str {
    body.pointer("/error").and_then(Value::as_str).unwrap_or_else(|| text(body, "/error/message"))
}

/// Google's `ErrorInfo` (AIP-193) names the key as the cause, also of an expired one. A key that Google found published
/// is refused for good, in a message alone. Other 403 are about the project, or about where a key may be used.
fn gemini_names_the_key(body: &Value) -> bool {
    let details = body.pointer("/error/details").and_then(Value::as_array);
    let mut reasons = details.into_iter().flatten().map(|detail| text(detail, "/reason"));
    reasons.any(|reason| reason == "API_KEY_INVALID")
        || text(body, "/error/message").contains("reported as leaked")
}

fn text<'a>(body: &'a Value, pointer: &str) -> &'a str {
    body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// `X-OAuth-Scopes: repo, user`; empty when the token has none. A list beyond the bounds is left out as a whole,
/// because a part of it would understate what the token may do.
fn scopes(headers: &HeaderMap) -> Option<Vec<String>> {
    let list = the_one(headers, "x-oauth-scopes")?;
    let scopes: Vec<&str> = list.split(',').map(str::trim).filter(|scope| !scope.is_empty()).collect();
    let fit = scopes.len() <= SCOPES_MAX && scopes.iter().all(|scope| scope.len() <= SCOPE_BYTES_MAX);
    fit.then(|| scopes.into_iter().map(str::to_owned).collect())
}

/// `2026-12-24 10:00:00 UTC`, or with an offset like `+0200` in place of the zone.
fn expires_at(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    const FORMAT: &str = "%Y-%m-%d %H:%M:%S";
    let text = the_one(headers, "github-authentication-token-expiration")?;
    let at = match text.strip_suffix(" UTC") {
        Some(text) => NaiveDateTime::parse_from_str(text, FORMAT).ok()?.and_utc(),
        None => DateTime::parse_from_str(text, &format!("{FORMAT} %z")).ok()?.to_utc(),
    };
    // RFC 3339 knows years of four digits only.
    (1..=9999).contains(&at.year()).then_some(at)
}

/// A header's value when it is there once and printable ASCII.
fn the_one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    value.to_str().ok().filter(|text| !text.contains('\t'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn scopes_beyond_the_bounds_are_left_out() {
        let read = |value: &str| scopes(&headers(&[("x-oauth-scopes", value)]));
        let some = |list: &[&str]| Some(list.iter().map(|&scope| scope.to_owned()).collect::<Vec<_>>());
        assert_eq!(scopes(&headers(&[])), None);
        assert_eq!(read(""), some(&[]));
        assert_eq!(read("repo"), some(&["repo"]));
        assert_eq!(read("repo,user:email , read:org,"), some(&["repo", "user:email", "read:org"]));
        assert_eq!(read(&["x"; 50].join(", ")).unwrap().len(), 50);
        assert_eq!(read(&["x"; 51].join(", ")), None);
        assert!(read(&"x".repeat(100)).is_some());
        assert_eq!(read(&format!("repo, {}", "x".repeat(101))), None);
        assert_eq!(read("repo, ü"), None);
        assert_eq!(read("repo\tuser"), None);
        assert_eq!(scopes(&headers(&[("x-oauth-scopes", "repo"), ("x-oauth-scopes", "user")])), None);
    }

    #[test]
    fn an_expiry_that_is_none_is_left_out() {
        let read = |value: &str| expires_at(&headers(&[("github-authentication-token-expiration", value)]));
        let at = |text: &str| Some(text.parse::<DateTime<Utc>>().unwrap());
        assert_eq!(read("2026-12-24 10:00:00 UTC"), at("2026-12-24T10:00:00Z"));
        assert_eq!(read("2027-10-04 01:00:00 +0200"), at("2027-10-03T23:00:00Z"));
        assert_eq!(read("2027-03-19 00:00:00 -0500"), at("2027-03-19T05:00:00Z"));
        let none = [
            "",
            "never",
            "2026-12-24",
            "2026-12-24 10:00:00",
            "2026-13-24 10:00:00 UTC",
            "0000-01-01 00:00:00 UTC",
        ];
        let odd =
            ["2026-12-24 10:00:00 UTC UTC", "+99999-12-24 10:00:00 UTC", "2026-12-24 10:00:00 +9999999"];
        for text in none.into_iter().chain(odd) {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
