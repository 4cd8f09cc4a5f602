//! Ranges of the log that an operator declared lost or unreadable.

use chrono::{DateTime, Utc};
use events::GapKind;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::position::{seq_from_column, seq_to_column};
use crate::projection::checkpoint::Checkpoint;

/// An accepted gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// First sequence of the range.
    pub seq_from: u64,
    /// Last sequence of the range.
    pub seq_to: u64,
    /// The kind of damage.
    pub kind: GapKind,
    /// Reason for which it was accepted.
    pub reason: String,
    /// Time at which it was accepted.
    pub accepted_at: DateTime<Utc>,
    /// The event that says so in the log.
    pub event_id: Uuid,
}

/// The stream's accepted gaps in the log's order.
pub async fn all(conn: &mut PgConnection, stream: &str) -> Result<Vec<Gap>, Error> {
    let rows = sqlx::query!(
        "SELECT seq_from, seq_to, kind, reason, accepted_at, event_id FROM accepted_gaps
         WHERE stream = $1 ORDER BY seq_from, seq_to, kind",
        stream
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let kind = [GapKind::Missing, GapKind::Damaged, GapKind::Truncated]
                .into_iter()
                .find(|kind| kind.as_str() == row.kind)
                .ok_or(Error::Inconsistent { table: "accepted_gaps", column: "kind", value: row.kind })?;
            Ok(Gap {
                seq_from: seq_from_column(row.seq_from),
                seq_to: seq_from_column(row.seq_to),
                kind,
                reason: row.reason,
                accepted_at: row.accepted_at,
                event_id: row.event_id,
            })
        })
        .collect()
}

/// Accepts a gap; `false` when the same range is accepted already. A truncation is bound to the checkpoint that it
/// takes back, which must lie in the range: accepted for another one, the same range is accepted anew.
pub async fn accept(conn: &mut PgConnection, stream: &str, gap: &Gap) -> Result<bool, Error> {
    let accepted = sqlx::query!(
        "INSERT INTO accepted_gaps AS g
             (stream, seq_from, seq_to, kind, reason, accepted_at, event_id, lost_seq, lost_frame_id)
         SELECT $1, $2, $3, $4::text, $5, $6, $7, CASE WHEN $4 = 'truncated' THEN c.seq END,
                CASE WHEN $4 = 'truncated' THEN c.frame_id END
         FROM projection_checkpoint c
         WHERE c.partition = 0 AND ($4 <> 'truncated' OR c.seq BETWEEN $2 AND $3)
         ON CONFLICT (stream, seq_from, seq_to, kind) DO UPDATE SET
             reason = excluded.reason, accepted_at = excluded.accepted_at, event_id = excluded.event_id,
             lost_seq = excluded.lost_seq, lost_frame_id = excluded.lost_frame_id, is_spent = false
         WHERE g.kind = 'truncated'
           AND (g.is_spent OR (g.lost_seq, g.lost_frame_id) <> (excluded.lost_seq, excluded.lost_frame_id))",
        stream,
        seq_to_column(gap.seq_from),
        seq_to_column(gap.seq_to),
        gap.kind.as_str(),
        gap.reason,
        gap.accepted_at,
        gap.event_id,
    )
    .execute(conn)
    .await?;
    Ok(accepted.rows_affected() == 1)
}

/// The first sequence of the accepted truncation that takes back this checkpoint, if there is one that has not done so
/// yet.
pub async fn lost_from(
    conn: &mut PgConnection,
    stream: &str,
    checkpoint: &Checkpoint,
) -> Result<Option<u64>, Error> {
    let from = sqlx::query_scalar!(
        "SELECT min(seq_from) FROM accepted_gaps
         WHERE stream = $1 AND lost_seq = $2 AND lost_frame_id = $3 AND NOT is_spent",
        stream,
        seq_to_column(checkpoint.seq),
        checkpoint.frame_id,
    )
    .fetch_one(conn)
    .await?;
    Ok(from.map(seq_from_column))
}

/// Marks the truncations that were accepted for this checkpoint as done, in the transaction that takes it back.
pub async fn spend(conn: &mut PgConnection, stream: &str, checkpoint: &Checkpoint) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE accepted_gaps SET is_spent = true WHERE stream = $1 AND lost_seq = $2 AND lost_frame_id = $3",
        stream,
        seq_to_column(checkpoint.seq),
        checkpoint.frame_id,
    )
    .execute(conn)
    .await?;
    Ok(())
}
