//! Types of events with their versions, as `CloudEvents` has them: each is spelt here and nowhere else, but for
//! those of accounts, which follow from [`AccountAction`].

use crate::account::AccountAction;

/// [`API_CALLED`] as a literal, for patterns that `concat!` makes when the program is compiled.
macro_rules! api_called {
    () => {
        "usage.api_called.v1"
    };
}
pub(crate) use api_called;

/// Type of [`ApiCalled`](crate::ApiCalled).
pub const API_CALLED: &str = api_called!();
/// Type of [`CallCompleted`](crate::CallCompleted).
pub const CALL_COMPLETED: &str = "usage.call_completed.v1";
/// Type of [`LimitRejected`](crate::LimitRejected).
pub const LIMIT_REJECTED: &str = "usage.limit_rejected.v1";
/// Type of [`OwnCalls`](crate::OwnCalls).
pub const OWN_CALLS: &str = "usage.own_calls.v1";
/// Type of [`LimitThresholdCrossed`](crate::LimitThresholdCrossed).
pub const LIMIT_THRESHOLD_CROSSED: &str = "usage.limit_threshold_crossed.v1";
/// Type of [`UsageReset`](crate::UsageReset).
pub const USAGE_RESET: &str = "usage.usage_reset.v1";
/// Type of [`PlanChanged`](crate::PlanChanged).
pub const PLAN_CHANGED: &str = "plan.plan_changed.v1";
/// Type of [`PeriodClosed`](crate::PeriodClosed).
pub const PERIOD_CLOSED: &str = "usage.period_closed.v1";
/// Type of [`ClaimsTurned`](crate::ClaimsTurned).
pub const CLAIMS_TURNED: &str = "log.claims_turned.v1";
/// Type of [`GapAccepted`](crate::GapAccepted).
pub const GAP_ACCEPTED: &str = "log.gap_accepted.v1";
/// Type of [`TokenStored`](crate::TokenStored).
pub const TOKEN_STORED: &str = "token.token_stored.v1";
/// Type of [`TokenDeleted`](crate::TokenDeleted).
pub const TOKEN_DELETED: &str = "token.token_deleted.v1";
/// Type of [`TokenUsed`](crate::TokenUsed).
pub const TOKEN_USED: &str = "token.token_used.v1";
/// Type of [`UserErased`](crate::UserErased).
pub const USER_ERASED: &str = "user.user_erased.v1";
/// Type of [`ApiKeyTerms`](crate::ApiKeyTerms) of a new key.
pub const API_KEY_CREATED: &str = "user.api_key_created.v1";
/// Type of [`ApiKeyTerms`](crate::ApiKeyTerms) of a key that was there.
pub const API_KEY_CHANGED: &str = "user.api_key_changed.v1";
/// Type of [`ApiKeyRotated`](crate::ApiKeyRotated).
pub const API_KEY_ROTATED: &str = "user.api_key_rotated.v1";
/// Type of [`ApiKeyRevoked`](crate::ApiKeyRevoked).
pub const API_KEY_REVOKED: &str = "user.api_key_revoked.v1";

/// Type of [`AuthFailed`](crate::AuthFailed): of its prefix, but of no user and no audit chain.
pub const AUTH_FAILED: &str = "user.auth_failed.v1";

/// Whether this build reads events of the type.
pub fn is_known(event_type: &str) -> bool {
    let known = [
        API_CALLED,
        CALL_COMPLETED,
        LIMIT_REJECTED,
        OWN_CALLS,
        LIMIT_THRESHOLD_CROSSED,
        USAGE_RESET,
        PLAN_CHANGED,
        PERIOD_CLOSED,
        CLAIMS_TURNED,
        GAP_ACCEPTED,
        TOKEN_STORED,
        TOKEN_DELETED,
        TOKEN_USED,
        USER_ERASED,
        API_KEY_CREATED,
        API_KEY_CHANGED,
        API_KEY_ROTATED,
        API_KEY_REVOKED,
        AUTH_FAILED,
    ];
    known.contains(&event_type) || AccountAction::of_type(event_type).is_some()
}
