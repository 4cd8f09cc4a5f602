//! All that is held about one user, without secrets, as JSON objects.

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use ledger::UserId;
use sqlx::PgConnection;

use crate::Error;

/// A part of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The account itself: one object.
    User,
    /// Decided changes of plan.
    PlanChanges,
    /// Units a month.
    Months,
    /// Closed months as issued.
    Statements,
    /// What later statements list for months that were closed already.
    Adjustments,
    /// Refused calls.
    Rejections,
    /// Thresholds of limits that were crossed.
    Thresholds,
    /// Stored tokens: what may be told of them.
    Tokens,
    /// What was done with tokens.
    TokenAudit,
    /// Every recorded call.
    Calls,
}

impl Section {
    /// All sections, in the order in which they are written. Of a user who was erased only the first holds something.
    pub const ALL: [Self; 10] = [
        Self::User,
        Self::PlanChanges,
        Self::Months,
        Self::Statements,
        Self::Adjustments,
        Self::Rejections,
        Self::Thresholds,
        Self::Tokens,
        Self::TokenAudit,
        Self::Calls,
    ];

    /// The section's name in the export.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::PlanChanges => "plan_changes",
            Self::Months => "months",
            Self::Statements => "statements",
            Self::Adjustments => "adjustments",
            Self::Rejections => "rejections",
            Self::Thresholds => "thresholds",
            Self::Tokens => "tokens",
            Self::TokenAudit => "token_audit",
            Self::Calls => "calls",
        }
    }
}

/// The section's objects about `owner`, each as JSON, the oldest first. Read while they are sent: the memory that they
/// take does not grow with their number.
pub fn objects(conn: &mut PgConnection, owner: UserId, section: Section) -> Objects<'_> {
    match section {
        Section::User => user(conn, owner),
        Section::PlanChanges => plan_changes(conn, owner),
        Section::Months => months(conn, owner),
        Section::Statements => statements(conn, owner),
        Section::Adjustments => adjustments(conn, owner),
        Section::Rejections => rejections(conn, owner),
        Section::Thresholds => thresholds(conn, owner),
        Section::Tokens => tokens(conn, owner),
        Section::TokenAudit => token_audit(conn, owner),
        Section::Calls => calls(conn, owner),
    }
}

/// JSON objects of a section.
pub type Objects<'c> = BoxStream<'c, Result<String, Error>>;

/// A section's query. The columns are named one by one: a new one is exported when somebody has decided that it holds no
/// secret.
macro_rules! section {
    ($name:ident, $query:literal) => {
        fn $name(conn: &mut PgConnection, owner: UserId) -> Objects<'_> {
            let rows = sqlx::query_scalar!($query, owner.get()).fetch(conn);
            rows.map(|row| row.map(Option::unwrap_or_default).map_err(Error::from)).boxed()
        }
    };
}

section!(
    user,
    "SELECT json_build_object('user_id', user_id, 'external_id', external_id, 'email', email, 'name', name,
         'status', status, 'created_at', created_at, 'updated_at', updated_at, 'erased_at', erased_at)::text
     FROM public.users WHERE user_id = $1"
);
section!(
    plan_changes,
    "SELECT json_build_object('plan_name', plan_name, 'monthly_api_limit', monthly_api_limit,
         'analyze_limit', analyze_limit, 'price_monthly', price_monthly::text, 'currency', currency,
         'effective_at', effective_at, 'changed_at', changed_at, 'reason', reason,
         'source_event_id', source_event_id)::text
     FROM subscriptions WHERE user_id = $1 ORDER BY log_seq, log_idx"
);
section!(
    months,
    "SELECT json_build_object('month', month_year, 'total_calls', total_calls, 'analyze_calls', analyze_calls,
         'auth_calls', auth_calls, 'other_calls', other_calls, 'avg_response_time_ms', avg_response_time_ms,
         'last_updated', last_updated)::text
     FROM monthly_usage_summary WHERE user_id = $1 ORDER BY month_year"
);
section!(
    statements,
    "SELECT json_build_object('month', month_year, 'plan_name', plan_name, 'price_monthly', price_monthly::text,
         'currency', currency, 'analyze_calls', analyze_calls, 'auth_calls', auth_calls,
         'other_calls', other_calls, 'issued_at', issued_at)::text
     FROM statements WHERE user_id = $1 ORDER BY month_year"
);
section!(
    adjustments,
    "SELECT json_build_object('listed_in', listed_in, 'of_month', of_month, 'analyze_units', analyze_units,
         'auth_units', auth_units, 'other_units', other_units)::text
     FROM statement_adjustments WHERE user_id = $1 ORDER BY listed_in, of_month"
);
section!(
    rejections,
    "SELECT json_build_object('meter', meter, 'month', month_year, 'window_start', window_start, 'count', count,
         'shadow', shadow)::text
     FROM limit_rejections WHERE user_id = $1 ORDER BY log_seq, log_idx"
);
section!(
    thresholds,
    "SELECT json_build_object('month', month_year, 'meter', meter, 'threshold_percent', threshold_percent,
         'crossed_at', crossed_at)::text
     FROM limit_thresholds WHERE user_id = $1 ORDER BY month_year, meter, threshold_percent"
);
section!(
    tokens,
    "SELECT json_build_object('id', id, 'token_type', token_type, 'token_name', token_name, 'masked', masked,
         'fingerprint', fingerprint, 'last_used', last_used, 'created_at', created_at,
         'updated_at', updated_at)::text
     FROM user_tokens WHERE user_id = $1 ORDER BY created_at, id"
);
section!(
    token_audit,
    "SELECT json_build_object('event_id', event_id, 'action', action, 'token_id', token_id,
         'token_type', token_type, 'token_name', token_name, 'replaced_id', replaced_id, 'purpose', purpose,
         'fingerprint', fingerprint, 'actor_kind', actor_kind, 'actor_id', actor_id, 'ip_address', ip_address,
         'user_agent', user_agent, 'created_at', created_at, 'hash', encode(hash, 'hex'))::text
     FROM token_audit WHERE user_id = $1 ORDER BY log_seq, log_idx"
);
section!(
    calls,
    "SELECT json_build_object('id', id, 'created_at', created_at, 'month', month_year, 'endpoint', endpoint,
         'method', method, 'category', category, 'counted', counted, 'units', units,
         'status_code', status_code, 'response_time_ms', response_time_ms, 'request_size', request_size,
         'response_size', response_size, 'ip_address', ip_address, 'user_agent', user_agent)::text
     FROM api_usage WHERE user_id = $1 ORDER BY created_at, id"
);
