//! Usage over time: units per period and group.

use chrono::{DateTime, Utc};
use ledger::{KeyId, UserId};
use sqlx::PgConnection;

use crate::Error;
use crate::read::filter::{Counted, TimeRange};

/// The group of endpoints that are not among the largest. No endpoint has this name: they start with a slash or
/// with `event:`.
pub const OTHER_ENDPOINTS: &str = "__other__";

/// The group of calls whose status or method nobody reported.
pub const UNKNOWN: &str = "unknown";

/// The group of calls that came without an API key.
pub const NO_KEY: &str = "none";

/// The length of a period, aligned in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// From one full hour to the next.
    Hour,
    /// From midnight to midnight.
    Day,
    /// A calendar month.
    Month,
}

impl Granularity {
    /// Its name as `date_trunc` and the api know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// Property by which the calls of a period are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// None: all calls are one group.
    None,
    /// Category.
    Category,
    /// Recorded endpoint.
    Endpoint,
    /// Status code; [`UNKNOWN`] where none was reported.
    Status,
    /// Method; [`UNKNOWN`] where none was reported.
    Method,
    /// API key, by its id; [`NO_KEY`] where there was none.
    Key,
}

impl Grouping {
    /// Its name as the api knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Category => "category",
            Self::Endpoint => "endpoint",
            Self::Status => "status",
            Self::Method => "method",
            Self::Key => "key",
        }
    }
}

/// Selection of calls to add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryFilter {
    /// Time of the calls.
    pub range: TimeRange,
    /// The length of a period. A period that the range cuts holds only what lies in the range.
    pub granularity: Granularity,
    /// Property by which to tell calls apart.
    pub grouping: Grouping,
    /// The calls that are taken.
    pub counted: Counted,
    /// The API key that they came with, if only those of one are taken.
    pub key: Option<KeyId>,
}

/// The sums of one period and group that had calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The start of the period.
    pub period: DateTime<Utc>,
    /// The group; empty with [`Grouping::None`].
    pub group: String,
    /// Units.
    pub units: u64,
    /// Rows, whatever their units.
    pub calls: u64,
    /// Sum over the calls that were timed.
    pub total_response_time_ms: u64,
    /// Number of calls that were timed.
    pub timed_calls: u64,
}

/// The groups of `grouping` that the filter finds calls of `owner` in, at most `limit`: endpoints with the most units
/// first, all others in the order of their names.
pub async fn groups(
    conn: &mut PgConnection,
    owner: UserId,
    filter: &HistoryFilter,
    limit: u32,
) -> Result<Vec<String>, Error> {
    let rows = sqlx::query_scalar!(
        r#"SELECT CASE $5
                      WHEN 'category' THEN category
                      WHEN 'endpoint' THEN endpoint
                      WHEN 'status' THEN COALESCE(status_code::text, 'unknown')
                      WHEN 'method' THEN COALESCE(method, 'unknown')
                      WHEN 'key' THEN COALESCE(key_id::text, 'none')
                      ELSE ''
                  END AS "name!"
           FROM api_usage
           WHERE user_id = $1 AND created_at >= $2 AND created_at < $3
             AND ($4::boolean IS NULL OR counted = $4)
             AND ($7::uuid IS NULL OR key_id = $7)
           GROUP BY 1
           ORDER BY CASE WHEN $5 = 'endpoint' THEN SUM(units) END DESC NULLS LAST, 1
           LIMIT $6"#,
        owner.get(),
        filter.range.from,
        filter.range.to,
        filter.counted.column(),
        filter.grouping.as_str(),
        i64::from(limit),
        filter.key.map(KeyId::get),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The sums of every period and group with calls. Endpoints that `largest` does not name are added up under
/// [`OTHER_ENDPOINTS`]. By category, or ungrouped, hours come from the cache where it has them; all else comes from
/// the rows, and so does what one API key used.
pub async fn buckets(
    conn: &mut PgConnection,
    owner: UserId,
    filter: &HistoryFilter,
    largest: &[String],
) -> Result<Vec<Bucket>, Error> {
    match filter.grouping {
        Grouping::None | Grouping::Category if filter.key.is_none() => from_hours(conn, owner, filter).await,
        _ => from_rows(conn, owner, filter, largest).await,
    }
}

/// Compacted hours that lie in the range, and the rows of the time in between. In one statement, so of one snapshot.
async fn from_hours(
    conn: &mut PgConnection,
    owner: UserId,
    filter: &HistoryFilter,
) -> Result<Vec<Bucket>, Error> {
    // The range stands at the rows once more: the planner leaves out the months beyond it.
    let rows = sqlx::query_as!(
        Row,
        r#"WITH compacted AS (
               SELECT d.day + n * interval '1 hour' AS hour
               FROM compacted_days d CROSS JOIN generate_series(0, 23) n
               WHERE d.user_id = $1 AND d.day > $2::timestamptz - interval '24 hours' AND d.day < $3::timestamptz
                 AND d.hours >> n & 1 = 1
                 AND d.day + n * interval '1 hour' >= $2
                 AND d.day + n * interval '1 hour' <= $3 - interval '1 hour'),
           gaps AS (
               SELECT lag(until) OVER (ORDER BY since, until) AS since, since AS until
               FROM (SELECT hour AS since, hour + interval '1 hour' AS until FROM compacted
                     UNION ALL SELECT $2, $2
                     UNION ALL SELECT $3, $3) hours)
           SELECT date_trunc($5, s.at, 'UTC') AS "period!",
                  CASE $6 WHEN 'category' THEN s.category ELSE '' END AS "group!",
                  SUM(s.units)::bigint AS "units!", SUM(s.calls)::bigint AS "calls!",
                  SUM(s.total_response_time_ms)::bigint AS "total_response_time_ms!",
                  SUM(s.timed_calls)::bigint AS "timed_calls!"
           FROM (
               SELECT h.bucket AS at, h.category, h.units, h.calls, h.total_response_time_ms, h.timed_calls
               FROM usage_hourly h
               WHERE h.user_id = $1 AND h.bucket >= $2 AND h.bucket <= $3 - interval '1 hour'
                 AND ($4::boolean IS NULL OR h.counted = $4)
               UNION ALL
               SELECT u.created_at, u.category, u.units, 1, COALESCE(u.response_time_ms, 0),
                      (u.response_time_ms IS NOT NULL)::int
               FROM gaps g CROSS JOIN LATERAL (
                   SELECT c.created_at, c.category, c.units, c.response_time_ms FROM api_usage c
                   WHERE c.user_id = $1 AND c.created_at >= g.since AND c.created_at < g.until
                     AND c.created_at >= $2 AND c.created_at < $3
                     AND ($4::boolean IS NULL OR c.counted = $4)
                   OFFSET 0) u
               WHERE g.since < g.until) s
           GROUP BY 1, 2"#,
        owner.get(),
        filter.range.from,
        filter.range.to,
        filter.counted.column(),
        filter.granularity.as_str(),
        filter.grouping.as_str(),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Row::into_bucket).collect())
}

async fn from_rows(
    conn: &mut PgConnection,
    owner: UserId,
    filter: &HistoryFilter,
    largest: &[String],
) -> Result<Vec<Bucket>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT date_trunc($5, created_at, 'UTC') AS "period!",
                  CASE $6
                      WHEN 'endpoint' THEN CASE WHEN endpoint = ANY($7) THEN endpoint ELSE '__other__' END
                      WHEN 'status' THEN COALESCE(status_code::text, 'unknown')
                      WHEN 'method' THEN COALESCE(method, 'unknown')
                      WHEN 'key' THEN COALESCE(key_id::text, 'none')
                      WHEN 'category' THEN category
                      ELSE ''
                  END AS "group!",
                  SUM(units)::bigint AS "units!", COUNT(*) AS "calls!",
                  COALESCE(SUM(response_time_ms), 0)::bigint AS "total_response_time_ms!",
                  COUNT(response_time_ms) AS "timed_calls!"
           FROM api_usage
           WHERE user_id = $1 AND created_at >= $2 AND created_at < $3
             AND ($4::boolean IS NULL OR counted = $4)
             AND ($8::uuid IS NULL OR key_id = $8)
           GROUP BY 1, 2"#,
        owner.get(),
        filter.range.from,
        filter.range.to,
        filter.counted.column(),
        filter.granularity.as_str(),
        filter.grouping.as_str(),
        largest,
        filter.key.map(KeyId::get),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Row::into_bucket).collect())
}

struct Row {
    period: DateTime<Utc>,
    group: String,
    units: i64,
    calls: i64,
    total_response_time_ms: i64,
    timed_calls: i64,
}

impl Row {
    fn into_bucket(self) -> Bucket {
        Bucket {
            period: self.period,
            group: self.group,
            units: self.units.unsigned_abs(),
            calls: self.calls.unsigned_abs(),
            total_response_time_ms: self.total_response_time_ms.unsigned_abs(),
            timed_calls: self.timed_calls.unsigned_abs(),
        }
    }
}
