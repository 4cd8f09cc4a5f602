//! Ids that count once, ever: client-supplied ones, and those of resets and plan changes.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::position::{seq_from_column, seq_to_column};
use crate::projection::usage_rows;

/// An id and the sequence of the frame that brings it.
pub type Claim = (Uuid, u64);

/// Claims all of these ids, or none. They are copied in the given order: sorted ones touch each index page once.
///
/// # Errors
/// [`Error::Conflict`] when one of them is taken; the transaction is then to be rolled back to a savepoint.
pub async fn copy(conn: &mut PgConnection, claims: &[Claim]) -> Result<(), Error> {
    let mut buffer = Vec::with_capacity(32 + claims.len() * 34);
    buffer.extend_from_slice(usage_rows::copy_header());
    for (id, seq) in claims {
        buffer.extend_from_slice(&2_i16.to_be_bytes());
        buffer.extend_from_slice(&16_i32.to_be_bytes());
        buffer.extend_from_slice(id.as_bytes());
        buffer.extend_from_slice(&8_i32.to_be_bytes());
        buffer.extend_from_slice(&seq_to_column(*seq).to_be_bytes());
    }
    usage_rows::copy_into(conn, "event_claims", "id, log_seq", &buffer).await?;
    Ok(())
}

/// Claims those of the ids that are free and returns them.
pub async fn insert_new(conn: &mut PgConnection, claims: &[Claim]) -> Result<Vec<Uuid>, Error> {
    let ids: Vec<Uuid> = claims.iter().map(|(id, _)| *id).collect();
    let seqs: Vec<i64> = claims.iter().map(|(_, seq)| seq_to_column(*seq)).collect();
    let claimed = sqlx::query_scalar!(
        "INSERT INTO event_claims (id, log_seq)
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[]) ON CONFLICT DO NOTHING RETURNING id",
        &ids,
        &seqs
    )
    .fetch_all(conn)
    .await?;
    Ok(claimed)
}

/// The sequence of the frame that brought the event of this id, one of our own, if it is projected.
pub async fn seq_of(conn: &mut PgConnection, id: Uuid) -> Result<Option<u64>, Error> {
    let seq = sqlx::query_scalar!("SELECT log_seq FROM event_claims WHERE id = $1", id)
        .fetch_optional(conn)
        .await?;
    Ok(seq.map(seq_from_column))
}

/// Those of the ids that are claimed. There is no owner to ask for: an id is derived from its owner, its source and the
/// client's own id, so that nobody's can be another's.
pub async fn find(conn: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    let claimed =
        sqlx::query_scalar!("SELECT id FROM event_claims WHERE id = ANY($1)", ids).fetch_all(conn).await?;
    Ok(claimed)
}
