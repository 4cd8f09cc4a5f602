//! What is gathered for ten seconds: refused calls, and calls of our own endpoints.

use chrono::{DateTime, Utc};
use ledger::{Meter, Month, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

/// Refusals of one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// User whose calls were refused.
    pub user: UserId,
    /// Position in the log.
    pub position: Position,
    /// The meter that refused.
    pub meter: Meter,
    /// Start of the window.
    pub window_start: DateTime<Utc>,
    /// Number of calls that were refused in it.
    pub count: u64,
    /// Whether they were admitted all the same (shadow mode).
    pub shadow: bool,
    /// The API key whose budget refused, and no limit of the plan.
    pub key_id: Option<Uuid>,
}

/// Stores the refusals; those that are there already stay as they are.
pub async fn insert_rejections(conn: &mut PgConnection, rejections: &[Rejection]) -> Result<(), Error> {
    let users: Vec<Uuid> = rejections.iter().map(|r| r.user.get()).collect();
    let (seqs, idxs): (Vec<i64>, Vec<i32>) = rejections.iter().map(|r| r.position.columns()).unzip();
    let meters: Vec<&str> = rejections.iter().map(|r| r.meter.as_str()).collect();
    let months: Vec<String> = rejections.iter().map(|r| Month::of(r.window_start).to_string()).collect();
    let windows: Vec<DateTime<Utc>> = rejections.iter().map(|r| r.window_start).collect();
    let counts: Vec<i64> = rejections.iter().map(|r| i64::try_from(r.count).unwrap_or(i64::MAX)).collect();
    let shadows: Vec<bool> = rejections.iter().map(|r| r.shadow).collect();
    let keys: Vec<Option<Uuid>> = rejections.iter().map(|r| r.key_id).collect();
    sqlx::query!(
        "INSERT INTO limit_rejections (user_id, log_seq, log_idx, meter, month_year, window_start, count, shadow,
                                        key_id)
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::int[], $4::text[], $5::text[], $6::timestamptz[],
                              $7::bigint[], $8::bool[], $9::uuid[])
         ON CONFLICT (user_id, log_seq, log_idx) DO NOTHING",
        &users,
        &seqs,
        &idxs,
        &meters as &[&str],
        &months,
        &windows,
        &counts,
        &shadows,
        &keys as &[Option<Uuid>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Calls of one user within ten seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCallsRow {
    /// User who called.
    pub user: UserId,
    /// Position in the log.
    pub position: Position,
    /// Start of the ten seconds.
    pub window_start: DateTime<Utc>,
    /// Numbers of calls by route and class of status, as JSON.
    pub counts: String,
}

/// Stores the counts; those that are there already stay as they are.
pub async fn insert_own_calls(conn: &mut PgConnection, rows: &[OwnCallsRow]) -> Result<(), Error> {
    let users: Vec<Uuid> = rows.iter().map(|row| row.user.get()).collect();
    let (seqs, idxs): (Vec<i64>, Vec<i32>) = rows.iter().map(|row| row.position.columns()).unzip();
    let windows: Vec<DateTime<Utc>> = rows.iter().map(|row| row.window_start).collect();
    let counts: Vec<&str> = rows.iter().map(|row| row.counts.as_str()).collect();
    sqlx::query!(
        "INSERT INTO own_calls (user_id, log_seq, log_idx, window_start, counts)
         SELECT user_id, log_seq, log_idx, window_start, counts::json
         FROM UNNEST($1::uuid[], $2::bigint[], $3::int[], $4::timestamptz[], $5::text[])
             AS given (user_id, log_seq, log_idx, window_start, counts)
         ON CONFLICT (user_id, log_seq, log_idx) DO NOTHING",
        &users,
        &seqs,
        &idxs,
        &windows,
        &counts as &[&str],
    )
    .execute(conn)
    .await?;
    Ok(())
}
