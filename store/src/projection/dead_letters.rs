//! Events that could not be applied: where they are and why, never what they hold.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::position::seq_to_column;
use crate::{Error, Position};

/// Reason for which an event is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its type or version is not known to this program; retried by a later one.
    Unknown,
    /// Cannot be decoded.
    Undecodable,
    /// Contradicts what is stored, or the domain's rules.
    Domain,
    /// The database refused one of its values.
    Refused,
}

impl Reason {
    /// The name in the table and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Undecodable => "undecodable",
            Self::Domain => "domain",
            Self::Refused => "refused",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Unknown, Self::Undecodable, Self::Domain, Self::Refused]
            .into_iter()
            .find(|reason| reason.as_str() == text)
    }
}

/// An event that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Position in the log.
    pub position: Position,
    /// Its type, empty when not even that could be read.
    pub event_type: String,
    /// The reason.
    pub reason: Reason,
    /// The same in words.
    pub detail: String,
    /// Time at which its frame was stored in the log.
    pub recorded_at: DateTime<Utc>,
}

/// Stores a dead letter, or its new reason.
pub async fn record(conn: &mut PgConnection, letter: &DeadLetter) -> Result<(), Error> {
    let (log_seq, log_idx) = letter.position.columns();
    sqlx::query!(
        "INSERT INTO dead_letters (log_seq, log_idx, event_type, reason, detail, recorded_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (log_seq, log_idx) DO UPDATE SET
             event_type = excluded.event_type, reason = excluded.reason, detail = excluded.detail",
        log_seq,
        log_idx,
        letter.event_type,
        letter.reason.as_str(),
        letter.detail,
        letter.recorded_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Dead letters after a position in the log's order, of one reason or of all; at most `max`.
pub async fn list(
    conn: &mut PgConnection,
    reason: Option<Reason>,
    after: Option<Position>,
    max: i64,
) -> Result<Vec<DeadLetter>, Error> {
    let (log_seq, log_idx) = after.map_or((-1, -1), Position::columns);
    let rows = sqlx::query!(
        "SELECT log_seq, log_idx, event_type, reason, detail, recorded_at FROM dead_letters
         WHERE ($1::text IS NULL OR reason = $1) AND (log_seq, log_idx) > ($2, $3)
         ORDER BY log_seq, log_idx LIMIT $4",
        reason.map(Reason::as_str),
        log_seq,
        log_idx,
        max,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(DeadLetter {
                position: Position::from_columns(row.log_seq, row.log_idx),
                event_type: row.event_type,
                reason: Reason::parse(&row.reason).ok_or_else(|| Error::Inconsistent {
                    table: "dead_letters",
                    column: "reason",
                    value: row.reason.clone(),
                })?,
                detail: row.detail,
                recorded_at: row.recorded_at,
            })
        })
        .collect()
}

/// Removes a dead letter that was applied or turned out to be a duplicate; `false` when there was none.
pub async fn remove(conn: &mut PgConnection, position: Position) -> Result<bool, Error> {
    let (log_seq, log_idx) = position.columns();
    let removed =
        sqlx::query!("DELETE FROM dead_letters WHERE log_seq = $1 AND log_idx = $2", log_seq, log_idx)
            .execute(conn)
            .await?;
    Ok(removed.rows_affected() == 1)
}

/// Forgets those of frames after `seq`, which are not in the log any more.
pub async fn forget_after(conn: &mut PgConnection, seq: u64) -> Result<(), Error> {
    sqlx::query("DELETE FROM dead_letters WHERE log_seq > $1").bind(seq_to_column(seq)).execute(conn).await?;
    Ok(())
}

/// The most dead letters that [`count`] counts.
const MAX_COUNTED: i64 = 10_000;

/// Number of dead letters; 10,000 if there are more, so that asking often stays cheap.
pub async fn count(conn: &mut PgConnection) -> Result<u64, Error> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM (SELECT FROM dead_letters LIMIT $1) d"#,
        MAX_COUNTED
    )
    .fetch_one(conn)
    .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}
