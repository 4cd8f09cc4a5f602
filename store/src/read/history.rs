//! Usage over time: units per period and group.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;

use crate::Error;
use crate::read::filter::{Counted, TimeRange};

/// The group of endpoints that are not among the largest. No endpoint has this name: they start with a slash or
/// with `event:`.
pub const OTHER_ENDPOINTS: &str = "__other__";

/// The group of calls whose status or method nobody reported.
pub const UNKNOWN: &str = "unknown";

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

/// The groups that `owner` has calls of in the range, at most `limit`: endpoints with the most units first, all others
/// in the order of their names.
pub async fn groups(
    conn: &mut PgConnection,
    owner: UserId,
    range: TimeRange,
    grouping: Grouping,
    counted: Counted,
    limit: u32,
) -> Result<Vec<String>, Error> {
    let rows = sqlx::query_scalar!(
        r#"SELECT CASE $5
                      WHEN 'category' THEN category
                      WHEN 'endpoint' THEN endpoint
                      WHEN 'status' THEN COALESCE(status_code::text, 'unknown')
                      WHEN 'method' THEN COALESCE(method, 'unknown')
                      ELSE ''
                  END AS "name!"
           FROM api_usage
           WHERE user_id = $1 AND created_at >= $2 AND created_at < $3
             AND ($4::boolean IS NULL OR counted = $4)
           GROUP BY 1
           ORDER BY CASE WHEN $5 = 'endpoint' THEN SUM(units) END DESC NULLS LAST, 1
           LIMIT $6"#,
        owner.get(),
        range.from,
        range.to,
        counted.column(),
        grouping.as_str(),
        i64::from(limit),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The sums of every period and group with calls. Endpoints that `largest` does not name are added up under
/// [`OTHER_ENDPOINTS`]. Full hours and days by category, or ungrouped, come from the roll-ups, all else from the
/// raw rows.
pub async fn buckets(
    conn: &mut PgConnection,
    owner: UserId,
    filter: &HistoryFilter,
    largest: &[String],
) -> Result<Vec<Bucket>, Error> {
    match source(filter) {
        Source::Daily => from_daily(conn, owner, filter).await,
        Source::Hourly => from_hourly(conn, owner, filter).await,
        Source::Raw => from_raw(conn, owner, filter, largest).await,
    }
}

/// Table that the sums come from: a roll-up serves when it knows the grouping and none of its buckets crosses an end
/// of the range or of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Daily,
    Hourly,
    Raw,
}

fn source(filter: &HistoryFilter) -> Source {
    const HOUR_US: i64 = 3_600_000_000;
    const DAY_US: i64 = 24 * HOUR_US;
    let aligned = |to_us: i64| {
        filter.range.from.timestamp_micros().rem_euclid(to_us) == 0
            && filter.range.to.timestamp_micros().rem_euclid(to_us) == 0
    };
    if !matches!(filter.grouping, Grouping::None | Grouping::Category) {
        Source::Raw
    } else if filter.granularity != Granularity::Hour && aligned(DAY_US) {
        Source::Daily
    } else if aligned(HOUR_US) {
        Source::Hourly
    } else {
        Source::Raw
    }
}

async fn from_daily(
    conn: &mut PgConnection,
    owner: UserId,
    filter: &HistoryFilter,
) -> Result<Vec<Bucket>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT date_trunc($5, bucket, 'UTC') AS "period!",
                  CASE $6 WHEN 'category' THEN category ELSE '' END AS "group!",
                  SUM(units)::bigint AS "units!", SUM(calls)::bigint AS "calls!",
                  SUM(total_response_time_ms)::bigint AS "total_response_time_ms!",
                  SUM(timed_calls)::bigint AS "timed_calls!"
           FROM usage_daily
           WHERE user_id = $1 AND bucket >= $2 AND bucket < $3 AND ($4::boolean IS NULL OR counted = $4)
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

async fn from_hourly(
    conn: &mut PgConnection,
    owner: UserId,
    filter: &HistoryFilter,
) -> Result<Vec<Bucket>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT date_trunc($5, bucket, 'UTC') AS "period!",
                  CASE $6 WHEN 'category' THEN category ELSE '' END AS "group!",
                  SUM(units)::bigint AS "units!", SUM(calls)::bigint AS "calls!",
                  SUM(total_response_time_ms)::bigint AS "total_response_time_ms!",
                  SUM(timed_calls)::bigint AS "timed_calls!"
           FROM usage_hourly
           WHERE user_id = $1 AND bucket >= $2 AND bucket < $3 AND ($4::boolean IS NULL OR counted = $4)
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

async fn from_raw(
    conn: &mut PgConnection,
    owner: UserId,
    filter: &HistoryFilter,
    largest: &[String],
) -> Result<Vec<Bucket>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT date_trunc($5, created_at, 'UTC') AS "period!",
                  CASE $6
                      WHEN 'category' THEN category
                      WHEN 'endpoint' THEN CASE WHEN endpoint = ANY($7) THEN endpoint ELSE '__other__' END
                      WHEN 'status' THEN COALESCE(status_code::text, 'unknown')
                      WHEN 'method' THEN COALESCE(method, 'unknown')
                      ELSE ''
                  END AS "group!",
                  SUM(units)::bigint AS "units!", COUNT(*) AS "calls!",
                  COALESCE(SUM(response_time_ms), 0)::bigint AS "total_response_time_ms!",
                  COUNT(response_time_ms) AS "timed_calls!"
           FROM api_usage
           WHERE user_id = $1 AND created_at >= $2 AND created_at < $3
             AND ($4::boolean IS NULL OR counted = $4)
           GROUP BY 1, 2"#,
        owner.get(),
        filter.range.from,
        filter.range.to,
        filter.counted.column(),
        filter.granularity.as_str(),
        filter.grouping.as_str(),
        largest,
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
