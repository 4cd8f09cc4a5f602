//! Calls of our own endpoints, counted per user and ten seconds.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

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
pub async fn insert(conn: &mut PgConnection, rows: &[OwnCallsRow]) -> Result<(), Error> {
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
