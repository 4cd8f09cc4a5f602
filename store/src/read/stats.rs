//! A user's usage of a month.

use chrono::{DateTime, Utc};
use ledger::{Meter, Month, UserId};
use sqlx::PgConnection;

use crate::Error;

/// Units of counted calls of one user and month since the month's last reset. All zero where nothing was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MonthUsage {
    /// Units of every category; the sum of the three that follow.
    pub total: u64,
    /// Units of category analyze.
    pub analyze: u64,
    /// Units of category auth.
    pub auth: u64,
    /// Units of category other.
    pub other: u64,
    /// Average over the calls that were timed, rounded down; none when none was.
    pub avg_response_time_ms: Option<u64>,
}

/// Crossing of one of a meter's thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossing {
    /// The meter.
    pub meter: Meter,
    /// The threshold, in percent of the limit (80 or 100).
    pub threshold_percent: u8,
    /// The instant recorded in the event.
    pub crossed_at: DateTime<Utc>,
}

/// Usage of `month` by `owner`.
pub async fn month_usage(conn: &mut PgConnection, owner: UserId, month: Month) -> Result<MonthUsage, Error> {
    let row = sqlx::query!(
        "SELECT total_calls, analyze_calls, auth_calls, other_calls, avg_response_time_ms
         FROM monthly_usage_summary WHERE user_id = $1 AND month_year = $2",
        owner.get(),
        month.to_string(),
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map_or_else(MonthUsage::default, |row| MonthUsage {
        total: row.total_calls.unsigned_abs(),
        analyze: row.analyze_calls.unsigned_abs(),
        auth: row.auth_calls.unsigned_abs(),
        other: row.other_calls.unsigned_abs(),
        avg_response_time_ms: row.avg_response_time_ms.map(i64::unsigned_abs),
    }))
}

/// The thresholds that `owner` has crossed in `month` since its last reset.
pub async fn crossings(conn: &mut PgConnection, owner: UserId, month: Month) -> Result<Vec<Crossing>, Error> {
    let rows = sqlx::query!(
        "SELECT meter, threshold_percent, crossed_at FROM limit_thresholds
         WHERE user_id = $1 AND month_year = $2 ORDER BY meter, threshold_percent",
        owner.get(),
        month.to_string(),
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let inconsistent =
                |column, value| Error::Inconsistent { table: "limit_thresholds", column, value };
            let percent = row.threshold_percent;
            Ok(Crossing {
                threshold_percent: u8::try_from(percent)
                    .map_err(|_| inconsistent("threshold_percent", percent.to_string()))?,
                meter: row.meter.parse().map_err(|_| inconsistent("meter", row.meter))?,
                crossed_at: row.crossed_at,
            })
        })
        .collect()
}

/// Time of the first call that the counters of `owner` and `month` hold.
pub async fn first_call_at(
    conn: &mut PgConnection,
    owner: UserId,
    month: Month,
) -> Result<Option<DateTime<Utc>>, Error> {
    let first = sqlx::query_scalar!(
        "SELECT created_at FROM api_usage u
         WHERE user_id = $1 AND created_at >= $2 AND created_at < $3 AND counted
           AND NOT EXISTS (
               SELECT FROM monthly_usage_summary s
               WHERE s.user_id = u.user_id AND s.month_year = u.month_year
                 AND (u.log_seq, u.log_idx) <= (s.reset_seq, s.reset_idx))
         ORDER BY created_at LIMIT 1",
        owner.get(),
        month.start(),
        month.end(),
    )
    .fetch_optional(conn)
    .await?;
    Ok(first)
}
