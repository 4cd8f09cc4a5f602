//! All that is held about one user, without secrets, as JSON objects.
//!
//! What is short is read at once ([`Short`]). The rest has no bound and is read by pages ([`Long`]), each a short
//! statement of its own, so that a slow reader holds neither a connection nor a snapshot. A page takes only rows that
//! the log had up to a given sequence: whatever is projected meanwhile does not show, and all pages are of one
//! position.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::position::seq_to_column;

/// Rows of a page: at most 1 MiB or so, since an endpoint has 2 KiB and counts of our own endpoints have 3 KiB at most.
const PAGE_ROWS: i64 = 250;

/// A part of an export with few rows: not many a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// The account itself: one object. The only part that holds something of a user who was erased.
    User,
    /// Units a month.
    Months,
    /// Closed months as issued.
    Statements,
    /// Units that later statements list for months that were closed already.
    Adjustments,
    /// Thresholds of limits that were crossed.
    Thresholds,
    /// Stored tokens: what may be told of them.
    Tokens,
    /// API keys, without what they are known by.
    ApiKeys,
    /// Units a month by API key.
    KeyMonths,
    /// Names by which the user signs in.
    Identities,
    /// When the password was changed last.
    Passwords,
    /// Sessions, without what they are known by.
    Sessions,
    /// Second factors, without their secrets.
    SecondFactors,
    /// Addresses from which the user has signed in.
    KnownAddresses,
}

/// A part of an export that grows with what a user does, and where in it the next page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Long {
    /// Decided changes of plan.
    PlanChanges(AfterEntry),
    /// Refused calls.
    Rejections(AfterEntry),
    /// Calls of our own endpoints.
    OwnCalls(AfterEntry),
    /// The audit of stored tokens.
    TokenAudit(AfterEntry),
    /// What was done to the account.
    SecurityLog(AfterEntry),
    /// Every recorded call.
    Calls(AfterCall),
}

/// The place behind a row that is known by its position in the log. By default it is before all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AfterEntry {
    seq: i64,
    idx: i32,
}

/// The place behind a call. By default it is before all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AfterCall {
    created_at: Option<DateTime<Utc>>,
    id: Uuid,
}

/// Some objects of a part, each as JSON, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The objects.
    pub objects: Vec<String>,
    /// Place where the next page begins; none when this was the last.
    pub next: Option<Long>,
}

/// State of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountState {
    /// An account that is there.
    Living,
    /// Erased by the log; the account does not know it yet.
    Ending,
    /// A tombstone, or never there.
    Erased,
}

impl Default for AfterEntry {
    fn default() -> Self {
        Self { seq: -1, idx: -1 }
    }
}

impl Short {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 13] = [
        Self::User,
        Self::Months,
        Self::Statements,
        Self::Adjustments,
        Self::Thresholds,
        Self::Tokens,
        Self::ApiKeys,
        Self::KeyMonths,
        Self::Identities,
        Self::Passwords,
        Self::Sessions,
        Self::SecondFactors,
        Self::KnownAddresses,
    ];

    /// The part's name in the export.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Months => "months",
            Self::Statements => "statements",
            Self::Adjustments => "adjustments",
            Self::Thresholds => "thresholds",
            Self::Tokens => "tokens",
            Self::ApiKeys => "api_keys",
            Self::KeyMonths => "key_months",
            Self::Identities => "identities",
            Self::Passwords => "passwords",
            Self::Sessions => "sessions",
            Self::SecondFactors => "second_factors",
            Self::KnownAddresses => "known_addresses",
        }
    }

    /// The part's objects about `owner`, each as JSON, the oldest first.
    pub async fn read(self, conn: &mut PgConnection, owner: UserId) -> Result<Vec<String>, Error> {
        match self {
            Self::User => user(conn, owner).await,
            Self::Months => months(conn, owner).await,
            Self::Statements => statements(conn, owner).await,
            Self::Adjustments => adjustments(conn, owner).await,
            Self::Thresholds => thresholds(conn, owner).await,
            Self::Tokens => tokens(conn, owner).await,
            Self::ApiKeys => api_keys(conn, owner).await,
            Self::KeyMonths => key_months(conn, owner).await,
            Self::Identities => identities(conn, owner).await,
            Self::Passwords => passwords(conn, owner).await,
            Self::Sessions => sessions(conn, owner).await,
            Self::SecondFactors => second_factors(conn, owner).await,
            Self::KnownAddresses => known_addresses(conn, owner).await,
        }
    }
}

impl Long {
    /// The first page of each, in the order in which they are written.
    pub fn all() -> [Self; 6] {
        let entry = AfterEntry::default();
        let calls = Self::Calls(AfterCall::default());
        [
            Self::PlanChanges(entry),
            Self::Rejections(entry),
            Self::OwnCalls(entry),
            Self::TokenAudit(entry),
            Self::SecurityLog(entry),
            calls,
        ]
    }

    /// The part's name in the export.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PlanChanges(_) => "plan_changes",
            Self::Rejections(_) => "rejections",
            Self::OwnCalls(_) => "own_calls",
            Self::TokenAudit(_) => "token_audit",
            Self::SecurityLog(_) => "security_log",
            Self::Calls(_) => "calls",
        }
    }

    /// This page of what the log had about `owner` up to `seq`.
    pub async fn read(self, conn: &mut PgConnection, owner: UserId, seq: u64) -> Result<Page, Error> {
        match self {
            Self::PlanChanges(after) => plan_changes(conn, owner, seq, after).await,
            Self::Rejections(after) => rejections(conn, owner, seq, after).await,
            Self::OwnCalls(after) => own_calls(conn, owner, seq, after).await,
            Self::TokenAudit(after) => token_audit(conn, owner, seq, after).await,
            Self::SecurityLog(after) => security_log(conn, owner, seq, after).await,
            Self::Calls(after) => calls(conn, owner, seq, after).await,
        }
    }
}

/// State of the account of `owner`.
pub async fn account_state(conn: &mut PgConnection, owner: UserId) -> Result<AccountState, Error> {
    let row = sqlx::query!(
        r#"SELECT COALESCE((SELECT status = 'erased' FROM public.users WHERE user_id = $1), TRUE) AS "is_buried!",
                  EXISTS (SELECT FROM erased_users WHERE user_id = $1) AS "is_ended!""#,
        owner.get()
    )
    .fetch_one(conn)
    .await?;
    Ok(match (row.is_buried, row.is_ended) {
        (true, _) => AccountState::Erased,
        (false, true) => AccountState::Ending,
        (false, false) => AccountState::Living,
    })
}

/// Whether there may be a page after one of so many rows.
fn is_full(rows: usize) -> bool {
    i64::try_from(rows).is_ok_and(|rows| rows >= PAGE_ROWS)
}

/// A short part's query. The columns are named one by one: a new one is exported when somebody has decided that it
/// holds no secret.
macro_rules! short {
    ($name:ident, $query:literal) => {
        async fn $name(conn: &mut PgConnection, owner: UserId) -> Result<Vec<String>, Error> {
            let rows = sqlx::query_scalar!($query, owner.get()).fetch_all(conn).await?;
            Ok(rows.into_iter().map(Option::unwrap_or_default).collect())
        }
    };
}

/// The query of a page of rows that are known by their position in the log.
macro_rules! by_position {
    ($name:ident, $part:ident, $query:literal) => {
        async fn $name(
            conn: &mut PgConnection,
            owner: UserId,
            seq: u64,
            after: AfterEntry,
        ) -> Result<Page, Error> {
            let rows = sqlx::query!($query, owner.get(), seq_to_column(seq), after.seq, after.idx, PAGE_ROWS)
                .fetch_all(conn)
                .await?;
            let last = rows.last().filter(|_| is_full(rows.len()));
            let next = last.map(|row| Long::$part(AfterEntry { seq: row.log_seq, idx: row.log_idx }));
            Ok(Page { objects: rows.into_iter().map(|row| row.object).collect(), next })
        }
    };
}

short!(
    user,
    "SELECT json_build_object('user_id', user_id, 'external_id', external_id, 'email', email, 'name', name,
         'status', status, 'used_by_admin', used_by_admin, 'created_at', created_at, 'updated_at', updated_at, 'erased_at', erased_at)::text
     FROM public.users WHERE user_id = $1"
);
short!(
    months,
    "SELECT json_build_object('month', month_year, 'total_calls', total_calls, 'analyze_calls', analyze_calls,
         'auth_calls', auth_calls, 'other_calls', other_calls, 'avg_response_time_ms', avg_response_time_ms,
         'last_updated', last_updated)::text
     FROM monthly_usage_summary WHERE user_id = $1 ORDER BY month_year"
);
short!(
    statements,
    "SELECT json_build_object('month', month_year, 'plan_name', plan_name, 'price_monthly', price_monthly::text,
         'currency', currency, 'analyze_calls', analyze_calls, 'auth_calls', auth_calls,
         'other_calls', other_calls, 'issued_at', issued_at)::text
     FROM statements WHERE user_id = $1 ORDER BY month_year"
);
short!(
    adjustments,
    "SELECT json_build_object('listed_in', listed_in, 'of_month', of_month, 'analyze_units', analyze_units,
         'auth_units', auth_units, 'other_units', other_units)::text
     FROM statement_adjustments WHERE user_id = $1 ORDER BY listed_in, of_month"
);
short!(
    thresholds,
    "SELECT json_build_object('month', month_year, 'meter', meter, 'threshold_percent', threshold_percent,
         'crossed_at', crossed_at)::text
     FROM limit_thresholds WHERE user_id = $1 ORDER BY month_year, meter, threshold_percent"
);
short!(
    tokens,
    "SELECT json_build_object('id', id, 'token_type', token_type, 'token_name', token_name, 'masked', masked,
         'fingerprint', fingerprint, 'last_used', last_used, 'created_at', created_at,
         'updated_at', updated_at)::text
     FROM user_tokens WHERE user_id = $1 ORDER BY created_at, id"
);
short!(
    api_keys,
    "SELECT json_build_object('id', key_id, 'name', name, 'role', role, 'scopes', scopes, 'networks', networks,
         'budget', budget, 'created_at', created_at, 'created_by', created_by, 'expires_at', expires_at,
         'revoked_at', revoked_at, 'last_used_at', last_used_at)::text
     FROM public.api_keys WHERE user_id = $1 ORDER BY key_id"
);
short!(
    key_months,
    "SELECT json_build_object('month', month_year, 'key_id', key_id, 'units', units)::text
     FROM monthly_key_usage WHERE user_id = $1 ORDER BY month_year, key_id"
);
short!(
    identities,
    "SELECT json_build_object('kind', kind, 'subject', subject, 'label', label, 'verified_at', verified_at,
         'created_at', created_at)::text
     FROM public.identities WHERE user_id = $1 ORDER BY created_at, kind"
);
short!(
    passwords,
    "SELECT json_build_object('changed_at', changed_at)::text FROM public.passwords WHERE user_id = $1"
);
short!(
    sessions,
    "SELECT json_build_object('id', session_id, 'method', method, 'is_pending', is_pending, 'created_at', created_at,
         'last_used_at', last_used_at, 'ends_at', ends_at, 'address', address, 'user_agent', user_agent)::text
     FROM public.sessions WHERE user_id = $1 ORDER BY created_at, session_id"
);
short!(
    second_factors,
    "SELECT json_build_object('id', factor_id, 'kind', kind, 'name', name, 'created_at', created_at,
         'confirmed_at', confirmed_at, 'last_used_at', last_used_at)::text
     FROM public.second_factors WHERE user_id = $1 ORDER BY created_at, factor_id"
);
short!(
    known_addresses,
    "SELECT json_build_object('address', address, 'used_at', used_at)::text
     FROM public.known_addresses WHERE user_id = $1 ORDER BY used_at, address"
);
by_position!(
    plan_changes,
    PlanChanges,
    r#"SELECT json_build_object('plan_name', plan_name, 'monthly_api_limit', monthly_api_limit,
         'analyze_limit', analyze_limit, 'price_monthly', price_monthly::text, 'currency', currency,
         'effective_at', effective_at, 'changed_at', changed_at, 'reason', reason,
         'source_event_id', source_event_id)::text AS "object!", log_seq, log_idx
     FROM subscriptions WHERE user_id = $1 AND log_seq <= $2 AND (log_seq, log_idx) > ($3, $4)
     ORDER BY log_seq, log_idx LIMIT $5"#
);
by_position!(
    rejections,
    Rejections,
    r#"SELECT json_build_object('meter', meter, 'month', month_year, 'window_start', window_start, 'count', count,
         'shadow', shadow, 'key_id', key_id)::text AS "object!", log_seq, log_idx
     FROM limit_rejections WHERE user_id = $1 AND log_seq <= $2 AND (log_seq, log_idx) > ($3, $4)
     ORDER BY log_seq, log_idx LIMIT $5"#
);
by_position!(
    own_calls,
    OwnCalls,
    r#"SELECT json_build_object('window_start', window_start, 'counts', counts)::text AS "object!", log_seq, log_idx
     FROM own_calls WHERE user_id = $1 AND log_seq <= $2 AND (log_seq, log_idx) > ($3, $4)
     ORDER BY log_seq, log_idx LIMIT $5"#
);
by_position!(
    token_audit,
    TokenAudit,
    r#"SELECT json_build_object('event_id', event_id, 'action', action, 'token_id', token_id,
         'token_type', token_type, 'token_name', token_name, 'replaced_id', replaced_id, 'purpose', purpose,
         'fingerprint', fingerprint, 'actor_kind', actor_kind, 'actor_id', actor_id, 'ip_address', ip_address,
         'user_agent', user_agent, 'created_at', created_at, 'hash', encode(hash, 'hex'))::text AS "object!",
         log_seq, log_idx
     FROM token_audit WHERE user_id = $1 AND log_seq <= $2 AND (log_seq, log_idx) > ($3, $4)
     ORDER BY log_seq, log_idx LIMIT $5"#
);
by_position!(
    security_log,
    SecurityLog,
    r#"SELECT json_build_object('at', at, 'action', action, 'method', method, 'object_id', object_id,
         'actor_kind', actor_kind, 'actor_id', actor_id, 'ip_address', ip_address,
         'user_agent', user_agent)::text AS "object!", log_seq, log_idx
     FROM security_log WHERE user_id = $1 AND log_seq <= $2 AND (log_seq, log_idx) > ($3, $4)
     ORDER BY log_seq, log_idx LIMIT $5"#
);

/// The comparison of times alone lets the index skip what was read already, and months that are past.
async fn calls(conn: &mut PgConnection, owner: UserId, seq: u64, after: AfterCall) -> Result<Page, Error> {
    let rows = sqlx::query!(
        r#"SELECT json_build_object('id', id, 'created_at', created_at, 'month', month_year, 'endpoint', endpoint,
               'method', method, 'category', category, 'counted', counted, 'units', units,
               'status_code', status_code, 'response_time_ms', response_time_ms, 'request_size', request_size,
               'response_size', response_size, 'ip_address', ip_address, 'user_agent', user_agent, 'key_id', key_id)::text
                   AS "object!",
               created_at, id
           FROM api_usage
           WHERE user_id = $1 AND log_seq <= $2
             AND created_at >= COALESCE($3::timestamptz, '-infinity')
             AND (created_at, id) > (COALESCE($3::timestamptz, '-infinity'), $4::uuid)
           ORDER BY created_at, id LIMIT $5"#,
        owner.get(),
        seq_to_column(seq),
        after.created_at,
        after.id,
        PAGE_ROWS
    )
    .fetch_all(conn)
    .await?;
    let last = rows.last().filter(|_| is_full(rows.len()));
    let next = last.map(|row| Long::Calls(AfterCall { created_at: Some(row.created_at), id: row.id }));
    Ok(Page { objects: rows.into_iter().map(|row| row.object).collect(), next })
}
