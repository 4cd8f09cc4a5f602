//! Answer of the endpoints that test a token.

use chrono::{DateTime, Utc};
use outbound::providers;
use serde::Serialize;
use utoipa::ToSchema;

/// What a provider says of a token.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenTest {
    /// Whether the token works.
    result: TestResult,
    /// Why nobody knows; only beside `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<UnknownReason>,
    /// What a GitHub token may do, where GitHub says so: it does of classic tokens only.
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<Vec<String>>,
    /// When a GitHub token ends, where GitHub says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime<Utc>>,
}

/// Whether a token works.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum TestResult {
    Valid,
    Invalid,
    Unknown,
}

/// Why nobody knows whether a token works.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum UnknownReason {
    RateLimited,
    Unreachable,
    TimedOut,
    UnexpectedStatus,
    NotAHeaderValue,
    Busy,
}

impl From<providers::TokenTest> for TokenTest {
    fn from(test: providers::TokenTest) -> Self {
        let (result, reason, scopes, expires_at) = match test {
            providers::TokenTest::Valid { scopes, expires_at } => {
                (TestResult::Valid, None, scopes, expires_at)
            }
            providers::TokenTest::Invalid => (TestResult::Invalid, None, None, None),
            providers::TokenTest::Unknown(reason) => (TestResult::Unknown, Some(reason.into()), None, None),
        };
        Self { result, reason, scopes, expires_at }
    }
}

impl From<providers::UnknownReason> for UnknownReason {
    fn from(reason: providers::UnknownReason) -> Self {
        match reason {
            providers::UnknownReason::RateLimited => Self::RateLimited,
            providers::UnknownReason::Unreachable => Self::Unreachable,
            providers::UnknownReason::TimedOut => Self::TimedOut,
            providers::UnknownReason::UnexpectedStatus => Self::UnexpectedStatus,
            providers::UnknownReason::NotAHeaderValue => Self::NotAHeaderValue,
            providers::UnknownReason::Busy => Self::Busy,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let json = |test: providers::TokenTest| serde_json::to_value(TokenTest::from(test)).unwrap();
        let scopes = ["repo", "admin:public_key"];
        let described = providers::TokenTest::Valid {
            scopes: Some(scopes.map(ToOwned::to_owned).into()),
            expires_at: Some("2026-12-24T10:00:00Z".parse().unwrap()),
        };
        let expected = json!({"result": "valid", "scopes": scopes, "expires_at": "2026-12-24T10:00:00Z"});
        assert_eq!(json(described), expected);
        assert_eq!(json(providers::TokenTest::Invalid), json!({"result": "invalid"}));
        let limited = providers::TokenTest::Unknown(providers::UnknownReason::RateLimited);
        assert_eq!(json(limited), json!({"result": "unknown", "reason": "rate_limited"}));
    }
}
