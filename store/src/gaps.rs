//! Ranges of the log that an operator declared lost or unreadable.

use chrono::{DateTime, Utc};
use events::GapKind;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::position::{seq_from_column, seq_to_column};

/// An accepted gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// First sequence of the range.
    pub seq_from: u64,
    /// Last sequence of the range.
    pub seq_to: u64,
    /// What is wrong with it.
    pub kind: GapKind,
    /// Why it was accepted.
    pub reason: String,
    /// When it was accepted.
    pub accepted_at: DateTime<Utc>,
    /// The event that says so in the log.
    pub event_id: Uuid,
}

/// The stream's accepted gaps in the log's order.
pub async fn all(conn: &mut PgConnection, stream: &str) -> Result<Vec<Gap>, Error> {
    let rows = sqlx::query!(
        "SELECT seq_from, seq_to, kind, reason, accepted_at, event_id FROM accepted_gaps
         WHERE stream = $1 ORDER BY seq_from, seq_to",
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

/// Accepts a gap; `false` when the same range is accepted already.
pub async fn accept(conn: &mut PgConnection, stream: &str, gap: &Gap) -> Result<bool, Error> {
    let inserted = sqlx::query!(
        "INSERT INTO accepted_gaps (stream, seq_from, seq_to, kind, reason, accepted_at, event_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (stream, seq_from, seq_to) DO NOTHING",
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
    Ok(inserted.rows_affected() == 1)
}
