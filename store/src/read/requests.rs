//! Calls by the request that a proxy asked about.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::position::seq_from_column;

/// A call that was recorded for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedCall {
    /// The call's row.
    pub call_id: Uuid,
    /// Time of the call.
    pub created_at: DateTime<Utc>,
    /// Sequence of its frame in the log.
    pub seq: u64,
}

/// The last call of the request of this hash, unless it is forgotten: ten minutes of the log's time later it may be.
/// There is no owner to ask for: the hash is made from the owner's id.
pub async fn last_call(conn: &mut PgConnection, request: Uuid) -> Result<Option<RequestedCall>, Error> {
    let row =
        sqlx::query!("SELECT call_id, created_at, log_seq FROM request_claims WHERE request = $1", request)
            .fetch_optional(conn)
            .await?;
    Ok(row.map(|row| RequestedCall {
        call_id: row.call_id,
        created_at: row.created_at,
        seq: seq_from_column(row.log_seq),
    }))
}
