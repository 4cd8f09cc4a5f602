//! Crossings of 80 % and 100 % of a limit: once per user, month, meter and threshold, anew after a reset.

use chrono::{DateTime, Utc};
use ledger::limit::{BLOCKED_PERCENT, WARNING_PERCENT};
use ledger::{Meter, Month, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

/// The thresholds, in percent of a limit.
pub const THRESHOLDS_PERCENT: [u8; 2] = [WARNING_PERCENT, BLOCKED_PERCENT];

/// A recorded crossing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossing {
    /// User of the limit.
    pub user: UserId,
    /// The month.
    pub month: Month,
    /// The meter.
    pub meter: Meter,
    /// 80 or 100.
    pub threshold_percent: i16,
    /// Time at which it was noticed.
    pub crossed_at: DateTime<Utc>,
    /// Position in the log.
    pub position: Position,
}

/// Stores the crossing unless the log has an earlier one, or the month was reset after it.
pub async fn insert(conn: &mut PgConnection, crossing: &Crossing) -> Result<(), Error> {
    let (log_seq, log_idx) = crossing.position.columns();
    sqlx::query!(
        "INSERT INTO limit_thresholds AS t
             (user_id, month_year, meter, threshold_percent, crossed_at, log_seq, log_idx)
         SELECT $1, $2, $3, $4, $5, $6, $7
         WHERE NOT EXISTS (SELECT FROM monthly_usage_summary s
                           WHERE s.user_id = $1 AND s.month_year = $2 AND (s.reset_seq, s.reset_idx) > ($6, $7))
         ON CONFLICT (user_id, month_year, meter, threshold_percent) DO UPDATE SET
             crossed_at = excluded.crossed_at, log_seq = excluded.log_seq, log_idx = excluded.log_idx
         WHERE (t.log_seq, t.log_idx) > (excluded.log_seq, excluded.log_idx)",
        crossing.user.get(),
        crossing.month.to_string(),
        crossing.meter.as_str(),
        crossing.threshold_percent,
        crossing.crossed_at,
        log_seq,
        log_idx,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets the month's crossings that lie before a reset.
pub async fn forget_before(
    conn: &mut PgConnection,
    user: UserId,
    month: Month,
    reset: Position,
) -> Result<(), Error> {
    let (log_seq, log_idx) = reset.columns();
    sqlx::query!(
        "DELETE FROM limit_thresholds WHERE user_id = $1 AND month_year = $2 AND (log_seq, log_idx) < ($3, $4)",
        user.get(),
        month.to_string(),
        log_seq,
        log_idx,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A threshold that is crossed and not recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrecorded {
    /// User of the limit.
    pub user: UserId,
    /// The meter.
    pub meter: Meter,
    /// 80 or 100.
    pub threshold_percent: i16,
    /// Units used.
    pub used: u64,
    /// The limit.
    pub limit: u64,
}

/// Months that somebody used and that are not closed, or were closed after `closed_since` only.
pub async fn open_months(conn: &mut PgConnection, closed_since: DateTime<Utc>) -> Result<Vec<Month>, Error> {
    let months: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT s.month_year FROM monthly_usage_summary s
         WHERE NOT EXISTS (SELECT FROM closed_periods p WHERE p.month_year = s.month_year AND p.closed_at <= $1)",
    )
    .bind(closed_since)
    .fetch_all(conn)
    .await?;
    Ok(months.iter().filter_map(|text| text.parse().ok()).collect())
}

/// The month's unrecorded crossings: of these users, or of all when `users` is `None`; at most `max` of them.
pub async fn unrecorded(
    conn: &mut PgConnection,
    month: Month,
    users: Option<&[UserId]>,
    max: i64,
) -> Result<Vec<Unrecorded>, Error> {
    let users: Option<Vec<Uuid>> = users.map(|users| users.iter().map(|user| user.get()).collect());
    let rows = sqlx::query!(
        r#"SELECT s.user_id, m.meter AS "meter!", t.threshold_percent AS "threshold_percent!", m.used AS "used!",
                  m.max_units AS "max_units!"
           FROM monthly_usage_summary s
           CROSS JOIN LATERAL (VALUES ('total', s.total_calls, s.monthly_api_limit),
                                      ('analyze', s.analyze_calls, s.analyze_limit)) AS m (meter, used, max_units)
           CROSS JOIN (VALUES (80::smallint), (100::smallint)) AS t (threshold_percent)
           WHERE s.month_year = $1 AND ($2::uuid[] IS NULL OR s.user_id = ANY ($2))
             AND m.used > 0 AND 100 * m.used::numeric >= t.threshold_percent * m.max_units::numeric
             AND NOT EXISTS (SELECT FROM limit_thresholds r
                             WHERE r.user_id = s.user_id AND r.month_year = s.month_year AND r.meter = m.meter
                               AND r.threshold_percent = t.threshold_percent)
           ORDER BY s.user_id, m.meter, t.threshold_percent
           LIMIT $3"#,
        month.to_string(),
        users.as_deref(),
        max,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Unrecorded {
                user: UserId::new(row.user_id),
                meter: row.meter.parse().map_err(|_| Error::Inconsistent {
                    table: "limit_thresholds",
                    column: "meter",
                    value: row.meter,
                })?,
                threshold_percent: row.threshold_percent,
                used: u64::try_from(row.used).unwrap_or(0),
                limit: u64::try_from(row.max_units).unwrap_or(0),
            })
        })
        .collect()
}
