//! Requests that proxies asked about: the last call of each.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::position::{seq_from_column, seq_to_column};
use crate::projection::usage_rows;

/// A request and its last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestClaim {
    /// Hash of the request, which names its user.
    pub request: Uuid,
    /// Time of the call.
    pub created_at: DateTime<Utc>,
    /// The call's row.
    pub call_id: Uuid,
    /// Sequence of its frame in the log.
    pub log_seq: u64,
    /// Time at which the log stored that frame.
    pub stored_at: DateTime<Utc>,
}

/// Claims all of these requests, each once, or none. They are copied in the given order: sorted ones touch each index
/// page once.
///
/// # Errors
/// [`Error::Conflict`] when one of them was claimed before; the transaction is then to be rolled back to a savepoint.
pub async fn copy(conn: &mut PgConnection, claims: &[RequestClaim]) -> Result<(), Error> {
    let mut buffer = Vec::with_capacity(32 + claims.len() * 78);
    buffer.extend_from_slice(usage_rows::copy_header());
    for claim in claims {
        buffer.extend_from_slice(&5_i16.to_be_bytes());
        for uuid in [&claim.request, &claim.call_id] {
            buffer.extend_from_slice(&16_i32.to_be_bytes());
            buffer.extend_from_slice(uuid.as_bytes());
        }
        let (created_at, stored_at) =
            (usage_rows::time_to_column(claim.created_at), usage_rows::time_to_column(claim.stored_at));
        for number in [created_at, seq_to_column(claim.log_seq), stored_at] {
            buffer.extend_from_slice(&8_i32.to_be_bytes());
            buffer.extend_from_slice(&number.to_be_bytes());
        }
    }
    let columns = "request, call_id, created_at, log_seq, stored_at";
    usage_rows::copy_into(conn, "request_claims", columns, &buffer).await?;
    Ok(())
}

/// Those of the requests that were claimed, and their last calls.
pub async fn find(conn: &mut PgConnection, requests: &[Uuid]) -> Result<Vec<RequestClaim>, Error> {
    let found = sqlx::query!(
        "SELECT request, created_at, call_id, log_seq, stored_at FROM request_claims WHERE request = ANY($1)",
        requests
    )
    .fetch_all(conn)
    .await?;
    let claims = found.into_iter().map(|row| RequestClaim {
        request: row.request,
        created_at: row.created_at,
        call_id: row.call_id,
        log_seq: seq_from_column(row.log_seq),
        stored_at: row.stored_at,
    });
    Ok(claims.collect())
}

/// Claims these requests, each once, whether or not they were claimed before; one that a call later in the log has
/// claimed stays as it is.
pub async fn put(conn: &mut PgConnection, claims: &[RequestClaim]) -> Result<(), Error> {
    let requests: Vec<Uuid> = claims.iter().map(|claim| claim.request).collect();
    let times: Vec<DateTime<Utc>> = claims.iter().map(|claim| claim.created_at).collect();
    let calls: Vec<Uuid> = claims.iter().map(|claim| claim.call_id).collect();
    let seqs: Vec<i64> = claims.iter().map(|claim| seq_to_column(claim.log_seq)).collect();
    let stored: Vec<DateTime<Utc>> = claims.iter().map(|claim| claim.stored_at).collect();
    sqlx::query!(
        "INSERT INTO request_claims (request, created_at, call_id, log_seq, stored_at)
         SELECT * FROM UNNEST($1::uuid[], $2::timestamptz[], $3::uuid[], $4::bigint[], $5::timestamptz[])
         ON CONFLICT (request) DO UPDATE
         SET created_at = excluded.created_at, call_id = excluded.call_id, log_seq = excluded.log_seq,
             stored_at = excluded.stored_at
         WHERE request_claims.log_seq <= excluded.log_seq",
        &requests,
        &times,
        &calls,
        &seqs,
        &stored
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets requests whose last call the log had stored by this time, the oldest first and so many at most.
pub async fn forget(conn: &mut PgConnection, before: DateTime<Utc>, at_most: usize) -> Result<(), Error> {
    let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
    sqlx::query!(
        "DELETE FROM request_claims WHERE request IN (
             SELECT request FROM request_claims WHERE stored_at <= $1 ORDER BY stored_at LIMIT $2)",
        before,
        at_most
    )
    .execute(conn)
    .await?;
    Ok(())
}
