//! Crossings of 80 % and 100 % of a limit: once per user, month, meter and threshold, anew after a reset.
//!
//! A month that reaches one is noted in the transaction that makes it reach it (`pending_thresholds`), and stays noted
//! until an event tells of it. So nobody ever searches all months of all users.

use chrono::{DateTime, Utc};
use ledger::{Meter, Month, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::position::seq_to_column;
use crate::projection::summaries::Crossed;
use crate::{Error, Position};

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

/// Notes months that reached a threshold by what stands in the log up to `seq`.
pub async fn note(conn: &mut PgConnection, crossed: &[Crossed], seq: u64) -> Result<(), Error> {
    let mut keys: Vec<(Uuid, String)> =
        crossed.iter().map(|crossed| (crossed.user.get(), crossed.month.to_string())).collect();
    keys.sort_unstable();
    keys.dedup();
    let (users, months): (Vec<Uuid>, Vec<String>) = keys.into_iter().unzip();
    sqlx::query!(
        "INSERT INTO pending_thresholds AS p (user_id, month_year, log_seq)
         SELECT user_id, month_year, $3 FROM UNNEST($1::uuid[], $2::text[]) AS c (user_id, month_year)
         ON CONFLICT (user_id, month_year) DO UPDATE SET log_seq = GREATEST(p.log_seq + 1, excluded.log_seq)",
        &users,
        &months,
        seq_to_column(seq),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A threshold that is crossed and not recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrecorded {
    /// The meter.
    pub meter: Meter,
    /// 80 or 100.
    pub threshold_percent: i16,
    /// Units used.
    pub used: u64,
    /// The limit.
    pub limit: u64,
}

/// A month that reached a threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// User of the month.
    pub user: UserId,
    /// The month.
    pub month: Month,
    /// Tells this note of the month from a later one.
    pub seq: i64,
    /// What no event tells of; nothing is left to do if it is empty.
    pub unrecorded: Vec<Unrecorded>,
}

/// The noted months after `after`, in the order of their keys, at most `max`.
pub async fn pending(
    conn: &mut PgConnection,
    after: Option<(UserId, Month)>,
    max: i64,
) -> Result<Vec<Pending>, Error> {
    // Before all of them, if there is none: a condition that is there or not would keep the index from skipping.
    let after_user = after.map_or_else(Uuid::nil, |(user, _)| user.get());
    let after_month = after.map_or_else(String::new, |(_, month)| month.to_string());
    // LIMIT keeps the subquery apart from the join: a look by key for each month.
    let rows = sqlx::query!(
        r#"SELECT p.user_id, p.month_year, p.log_seq, c.meter AS "meter?", c.threshold_percent AS "percent?",
                  c.used AS "used?", c.max_units AS "max_units?"
           FROM (SELECT user_id, month_year, log_seq FROM pending_thresholds
                 WHERE (user_id, month_year) > ($1, $2)
                 ORDER BY user_id, month_year LIMIT $3) p
           LEFT JOIN LATERAL (
               SELECT m.meter, t.threshold_percent, m.used, m.max_units
               FROM monthly_usage_summary s
               CROSS JOIN LATERAL (VALUES ('total', s.total_calls, s.monthly_api_limit),
                                          ('analyze', s.analyze_calls, s.analyze_limit))
                    AS m (meter, used, max_units)
               CROSS JOIN (VALUES (80::smallint), (100::smallint)) AS t (threshold_percent)
               WHERE s.user_id = p.user_id AND s.month_year = p.month_year
                 AND m.used > 0 AND 100 * m.used::numeric >= t.threshold_percent * m.max_units::numeric
                 AND NOT EXISTS (SELECT FROM limit_thresholds r
                                 WHERE r.user_id = s.user_id AND r.month_year = s.month_year AND r.meter = m.meter
                                   AND r.threshold_percent = t.threshold_percent)
               LIMIT 4) c ON TRUE
           ORDER BY p.user_id, p.month_year, c.meter, c.threshold_percent"#,
        after_user,
        after_month,
        max,
    )
    .fetch_all(conn)
    .await?;
    let mut pending: Vec<Pending> = Vec::new();
    for row in rows {
        let user = UserId::new(row.user_id);
        let month: Month = row.month_year.parse().map_err(|_| inconsistent("month_year", row.month_year))?;
        if pending.last().is_none_or(|last| (last.user, last.month) != (user, month)) {
            pending.push(Pending { user, month, seq: row.log_seq, unrecorded: Vec::new() });
        }
        let (Some(meter), Some(threshold_percent), Some(units), Some(limit), Some(last)) =
            (row.meter, row.percent, row.used, row.max_units, pending.last_mut())
        else {
            continue;
        };
        last.unrecorded.push(Unrecorded {
            meter: meter.parse().map_err(|_| inconsistent("meter", meter))?,
            threshold_percent,
            used: u64::try_from(units).unwrap_or(0),
            limit: u64::try_from(limit).unwrap_or(0),
        });
    }
    Ok(pending)
}

fn inconsistent(column: &'static str, value: String) -> Error {
    Error::Inconsistent { table: "pending_thresholds", column, value }
}

/// Forgets noted months of which nothing is left to tell, unless they were noted again since they were looked at.
pub async fn settle(conn: &mut PgConnection, settled: &[Pending]) -> Result<(), Error> {
    let users: Vec<Uuid> = settled.iter().map(|pending| pending.user.get()).collect();
    let months: Vec<String> = settled.iter().map(|pending| pending.month.to_string()).collect();
    let seqs: Vec<i64> = settled.iter().map(|pending| pending.seq).collect();
    // One that a batch has under its hands is passed over: neither waits for the other.
    sqlx::query!(
        "DELETE FROM pending_thresholds WHERE (user_id, month_year) IN (
             SELECT p.user_id, p.month_year FROM pending_thresholds p
             JOIN UNNEST($1::uuid[], $2::text[], $3::bigint[]) AS s (user_id, month_year, log_seq)
                 USING (user_id, month_year, log_seq)
             FOR UPDATE OF p SKIP LOCKED)",
        &users,
        &months,
        &seqs,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets those of these noted months of which, by the transaction's own sight, nothing is left to tell.
pub async fn settle_told(conn: &mut PgConnection, told: &[Crossing]) -> Result<(), Error> {
    let users: Vec<Uuid> = told.iter().map(|crossing| crossing.user.get()).collect();
    let months: Vec<String> = told.iter().map(|crossing| crossing.month.to_string()).collect();
    sqlx::query!(
        "DELETE FROM pending_thresholds p USING UNNEST($1::uuid[], $2::text[]) AS t (user_id, month_year)
         WHERE p.user_id = t.user_id AND p.month_year = t.month_year
           AND NOT EXISTS (
               SELECT FROM monthly_usage_summary s
               CROSS JOIN LATERAL (VALUES ('total', s.total_calls, s.monthly_api_limit),
                                          ('analyze', s.analyze_calls, s.analyze_limit))
                    AS m (meter, used, max_units)
               CROSS JOIN (VALUES (80::smallint), (100::smallint)) AS h (threshold_percent)
               WHERE s.user_id = p.user_id AND s.month_year = p.month_year
                 AND m.used > 0 AND 100 * m.used::numeric >= h.threshold_percent * m.max_units::numeric
                 AND NOT EXISTS (SELECT FROM limit_thresholds r
                                 WHERE r.user_id = s.user_id AND r.month_year = s.month_year AND r.meter = m.meter
                                   AND r.threshold_percent = h.threshold_percent))",
        &users,
        &months,
    )
    .execute(conn)
    .await?;
    Ok(())
}
