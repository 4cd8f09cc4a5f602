//! Completing calls that were recorded before their end.

use chrono::{DateTime, Utc};
use ledger::{Category, KeyId, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::position::seq_to_column;
use crate::{Error, Position};

/// End of a recorded call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// User who made the call.
    pub user: UserId,
    /// The call's row.
    pub call_id: Uuid,
    /// The row's `created_at`, which finds its partition.
    pub call_time: DateTime<Utc>,
    /// Position of the completion in the log.
    pub position: Position,
    /// Time at which the call ended.
    pub at: DateTime<Utc>,
    /// HTTP status of the answer.
    pub status_code: u16,
    /// Duration in milliseconds.
    pub response_time_ms: Option<u32>,
    /// Size of the response in bytes.
    pub response_size: Option<u64>,
    /// Whether the call counts after all.
    pub counted: bool,
}

/// A stored call that may be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCall {
    /// Position of the call in the log.
    pub position: Position,
    /// Its category.
    pub category: Category,
    /// Its cost in units.
    pub units: i64,
    /// Whether it counts so far.
    pub counted: bool,
    /// Its response time so far.
    pub response_time_ms: Option<i64>,
    /// Whether it was completed before.
    pub completed: bool,
    /// The API key that it came with, if it did.
    pub key_id: Option<KeyId>,
}

/// Finds the calls that are to be completed, in the same order; `None` where the user has no such call.
pub async fn find(
    conn: &mut PgConnection,
    completions: &[Completion],
) -> Result<Vec<Option<OpenCall>>, Error> {
    let users: Vec<Uuid> = completions.iter().map(|c| c.user.get()).collect();
    let ids: Vec<Uuid> = completions.iter().map(|c| c.call_id).collect();
    let times: Vec<DateTime<Utc>> = completions.iter().map(|c| c.call_time).collect();
    // LIMIT keeps the subquery apart from the join: one look into one partition for each call.
    let rows = sqlx::query!(
        r#"SELECT o.log_seq AS "log_seq?", o.log_idx AS "log_idx?", o.category AS "category?", o.units AS "units?",
                  o.counted AS "counted?", o.response_time_ms, o.completed_seq, o.key_id AS "key_id?"
           FROM UNNEST($1::uuid[], $2::uuid[], $3::timestamptz[]) WITH ORDINALITY AS c (user_id, id, call_time, ord)
           LEFT JOIN LATERAL (
               SELECT u.log_seq, u.log_idx, u.category, u.units, u.counted, u.response_time_ms, u.completed_seq,
                      u.key_id
               FROM api_usage u
               WHERE u.user_id = c.user_id AND u.created_at = c.call_time AND u.id = c.id
               LIMIT 1) o ON TRUE
           ORDER BY c.ord"#,
        &users,
        &ids,
        &times
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let (Some(seq), Some(idx), Some(category), Some(units), Some(counted)) =
                (row.log_seq, row.log_idx, row.category, row.units, row.counted)
            else {
                return Ok(None);
            };
            Ok(Some(OpenCall {
                position: Position::from_columns(seq, idx),
                category: category.parse().map_err(|_| Error::Inconsistent {
                    table: "api_usage",
                    column: "category",
                    value: category,
                })?,
                units: i64::from(units),
                counted,
                response_time_ms: row.response_time_ms.map(i64::from),
                completed: row.completed_seq.is_some(),
                key_id: row.key_id.map(KeyId::new),
            }))
        })
        .collect()
}

/// Completes these calls, each of which [`find`] found open.
pub async fn complete(conn: &mut PgConnection, completions: &[&Completion]) -> Result<(), Error> {
    let users: Vec<Uuid> = completions.iter().map(|c| c.user.get()).collect();
    let ids: Vec<Uuid> = completions.iter().map(|c| c.call_id).collect();
    let times: Vec<DateTime<Utc>> = completions.iter().map(|c| c.call_time).collect();
    let seqs: Vec<i64> = completions.iter().map(|c| seq_to_column(c.position.seq)).collect();
    let statuses: Vec<i16> = completions.iter().map(|c| c.status_code.cast_signed()).collect();
    let response_times: Vec<Option<i32>> = completions
        .iter()
        .map(|c| c.response_time_ms.map(|ms| i32::try_from(ms).unwrap_or(i32::MAX)))
        .collect();
    let response_sizes: Vec<Option<i64>> =
        completions.iter().map(|c| c.response_size.map(seq_to_column)).collect();
    let counted: Vec<bool> = completions.iter().map(|c| c.counted).collect();
    let updated = sqlx::query!(
        "UPDATE api_usage u
         SET completed_seq = c.seq, status_code = c.status_code, counted = u.counted AND c.counted,
             response_time_ms = COALESCE(c.response_time_ms, u.response_time_ms),
             response_size = COALESCE(c.response_size, u.response_size)
         FROM UNNEST($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::smallint[], $6::int[], $7::bigint[],
                     $8::bool[])
              AS c (user_id, id, call_time, seq, status_code, response_time_ms, response_size, counted)
         WHERE u.user_id = c.user_id AND u.created_at = c.call_time AND u.id = c.id AND u.completed_seq IS NULL",
        &users,
        &ids,
        &times,
        &seqs,
        &statuses,
        &response_times as &[Option<i32>],
        &response_sizes as &[Option<i64>],
        &counted,
    )
    .execute(conn)
    .await?;
    crate::error::expect_rows("completing calls", completions.len() as u64, updated.rows_affected())
}
