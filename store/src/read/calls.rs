//! The raw rows behind a figure.

use chrono::{DateTime, Utc};
use ledger::{Category, KeyId, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::read::filter::{Counted, TimeRange};
use crate::read::history::NO_KEY;

/// Selection of a user's calls. What is `None` does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFilter {
    /// Time of the calls.
    pub range: TimeRange,
    /// The calls that are taken.
    pub counted: Counted,
    /// Their category.
    pub category: Option<Category>,
    /// The endpoint as recorded, or [`OTHER_ENDPOINTS`](super::history::OTHER_ENDPOINTS) for all but `largest`.
    pub endpoint: Option<String>,
    /// Their status code, or [`UNKNOWN`](super::history::UNKNOWN).
    pub status: Option<String>,
    /// Their method, or [`UNKNOWN`](super::history::UNKNOWN).
    pub method: Option<String>,
    /// Only those after the last reset of their month: the rows that the month's counters hold.
    pub since_reset: bool,
    /// The endpoints that have a group of their own; read only for
    /// [`OTHER_ENDPOINTS`](super::history::OTHER_ENDPOINTS).
    pub largest: Vec<String>,
    /// The API key that they came with.
    pub key: Option<KeyFilter>,
}

/// Selection of calls by their API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFilter {
    /// Those with this one.
    Of(KeyId),
    /// Those without any.
    None,
}

impl CallFilter {
    /// The name of the group of calls that is taken, as history has it.
    fn key_group(&self) -> Option<String> {
        self.key.map(|key| match key {
            KeyFilter::Of(key) => key.to_string(),
            KeyFilter::None => NO_KEY.to_owned(),
        })
    }
}

/// A place in the list: everything older follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct After {
    /// Time of the last call shown.
    pub created_at: DateTime<Utc>,
    /// Its id, which orders calls of the same instant.
    pub id: Uuid,
}

/// One call as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The row's id.
    pub id: Uuid,
    /// Time of the call.
    pub created_at: DateTime<Utc>,
    /// The month that it counts in.
    pub month_year: String,
    /// The endpoint as recorded.
    pub endpoint: String,
    /// The method, when reported.
    pub method: Option<String>,
    /// The category that the rules gave it.
    pub category: String,
    /// Whether it counts against the plan.
    pub counted: bool,
    /// Its cost in units.
    pub units: u32,
    /// The answer's status; none while not known.
    pub status_code: Option<u16>,
    /// Duration in milliseconds.
    pub response_time_ms: Option<u32>,
    /// Size of the request's body in bytes.
    pub request_size: Option<u64>,
    /// Size of the answer's body in bytes.
    pub response_size: Option<u64>,
    /// Address that it came from.
    pub ip_address: Option<String>,
    /// User agent of the caller.
    pub user_agent: Option<String>,
    /// The API key that it came with.
    pub key_id: Option<Uuid>,
    /// The sequence in the log of the frame that recorded it.
    pub log_seq: u64,
}

/// All rows of a filter, on whatever page they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Number of rows.
    pub rows: u64,
    /// The sum of their units.
    pub units: u64,
}

/// The calls of `owner` that follow `after`, the newest first, at most `limit`.
pub async fn page(
    conn: &mut PgConnection,
    owner: UserId,
    filter: &CallFilter,
    after: Option<&After>,
    limit: u32,
) -> Result<Vec<Call>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, created_at, month_year, endpoint, method, category, counted, units, status_code,
                  response_time_ms, request_size, response_size, ip_address, user_agent, log_seq, key_id
           FROM api_usage u
           WHERE user_id = $1 AND created_at >= $2 AND created_at < $3
             AND ($4::boolean IS NULL OR counted = $4)
             AND ($5::text IS NULL OR category = $5)
             AND ($6::text IS NULL OR endpoint = $6 OR ($6 = '__other__' AND endpoint <> ALL($7)))
             AND ($8::text IS NULL OR COALESCE(status_code::text, 'unknown') = $8)
             AND ($9::text IS NULL OR COALESCE(method, 'unknown') = $9)
             AND (NOT $10 OR NOT EXISTS (
                 SELECT FROM monthly_usage_summary s
                 WHERE s.user_id = u.user_id AND s.month_year = u.month_year
                   AND (u.log_seq, u.log_idx) <= (s.reset_seq, s.reset_idx)))
             AND ($11::timestamptz IS NULL OR (created_at, id) < ($11, $12::uuid))
             AND ($14::text IS NULL OR COALESCE(key_id::text, 'none') = $14)
           ORDER BY created_at DESC, id DESC
           LIMIT $13"#,
        owner.get(),
        filter.range.from,
        after.map_or(filter.range.to, |after| filter.range.to.min(just_after(after.created_at))),
        filter.counted.column(),
        filter.category.map(Category::as_str),
        filter.endpoint.as_deref(),
        &filter.largest,
        filter.status.as_deref(),
        filter.method.as_deref(),
        filter.since_reset,
        after.map(|after| after.created_at),
        after.map(|after| after.id),
        i64::from(limit),
        filter.key_group(),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Row::into_call).collect())
}

/// Number of rows of `owner` that the filter finds, and their units.
pub async fn totals(conn: &mut PgConnection, owner: UserId, filter: &CallFilter) -> Result<Totals, Error> {
    let row = sqlx::query!(
        r#"SELECT COUNT(*) AS "rows!", COALESCE(SUM(units), 0)::bigint AS "units!"
           FROM api_usage u
           WHERE user_id = $1 AND created_at >= $2 AND created_at < $3
             AND ($4::boolean IS NULL OR counted = $4)
             AND ($5::text IS NULL OR category = $5)
             AND ($6::text IS NULL OR endpoint = $6 OR ($6 = '__other__' AND endpoint <> ALL($7)))
             AND ($8::text IS NULL OR COALESCE(status_code::text, 'unknown') = $8)
             AND ($9::text IS NULL OR COALESCE(method, 'unknown') = $9)
             AND (NOT $10 OR NOT EXISTS (
                 SELECT FROM monthly_usage_summary s
                 WHERE s.user_id = u.user_id AND s.month_year = u.month_year
                   AND (u.log_seq, u.log_idx) <= (s.reset_seq, s.reset_idx)))
             AND ($11::text IS NULL OR COALESCE(key_id::text, 'none') = $11)"#,
        owner.get(),
        filter.range.from,
        filter.range.to,
        filter.counted.column(),
        filter.category.map(Category::as_str),
        filter.endpoint.as_deref(),
        &filter.largest,
        filter.status.as_deref(),
        filter.method.as_deref(),
        filter.since_reset,
        filter.key_group(),
    )
    .fetch_one(conn)
    .await?;
    Ok(Totals { rows: row.rows.unsigned_abs(), units: row.units.unsigned_abs() })
}

/// The row comparison alone would not let the index on `created_at` skip what was shown already.
fn just_after(instant: DateTime<Utc>) -> DateTime<Utc> {
    instant.checked_add_signed(chrono::TimeDelta::microseconds(1)).unwrap_or(instant)
}

struct Row {
    id: Uuid,
    created_at: DateTime<Utc>,
    month_year: String,
    endpoint: String,
    method: Option<String>,
    category: String,
    counted: bool,
    units: i32,
    status_code: Option<i16>,
    response_time_ms: Option<i32>,
    request_size: Option<i64>,
    response_size: Option<i64>,
    ip_address: Option<String>,
    user_agent: Option<String>,
    log_seq: i64,
    key_id: Option<Uuid>,
}

impl Row {
    fn into_call(self) -> Call {
        Call {
            id: self.id,
            created_at: self.created_at,
            month_year: self.month_year,
            endpoint: self.endpoint,
            method: self.method,
            category: self.category,
            counted: self.counted,
            units: self.units.unsigned_abs(),
            status_code: self.status_code.map(i16::unsigned_abs),
            response_time_ms: self.response_time_ms.map(i32::unsigned_abs),
            request_size: self.request_size.map(i64::unsigned_abs),
            response_size: self.response_size.map(i64::unsigned_abs),
            ip_address: self.ip_address,
            user_agent: self.user_agent,
            key_id: self.key_id,
            log_seq: self.log_seq.unsigned_abs(),
        }
    }
}
