//! The projections' checkpoint: the only truth about their position in the log.

use chrono::{DateTime, Utc};
use sqlx::{Executor, PgConnection};

use crate::position::{seq_from_column, seq_to_column};
use crate::projection::claims::Generations;
use crate::{Error, Schema};

/// The channel on which a transaction that moves the checkpoint says so; the payload is the sequence in decimal.
pub const CHANNEL: &str = "ledger_projected";

/// The one partition of the log, for now.
pub const PARTITION: i16 = 0;

/// The position up to which everything is projected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Sequence of the last projected frame; 0 before the first.
    pub seq: u64,
    /// That frame's `Nats-Msg-Id`; empty before the first.
    pub frame_id: String,
    /// Time at which that frame was stored in the log.
    pub frame_time: Option<DateTime<Utc>>,
    /// Time of the stream's creation, which tells a replaced stream from the one that was read.
    pub stream_created: Option<DateTime<Utc>>,
    /// Events of all frames up to here.
    pub events: u64,
    /// The generations of claims.
    pub claims: Generations,
}

/// Reads the checkpoint.
pub async fn read(conn: &mut PgConnection, partition: i16) -> Result<Checkpoint, Error> {
    let row = sqlx::query_as!(
        Row,
        "SELECT seq, frame_id, frame_time, stream_created, events, claims_generation, claims_table, claims_since,
                claims_turned_seq, claims_turned_before_seq
         FROM projection_checkpoint WHERE partition = $1",
        partition
    )
    .fetch_one(conn)
    .await?;
    Ok(row.into())
}

/// Reads the checkpoint and locks it until the transaction ends: nothing else is projected meanwhile.
pub async fn lock(conn: &mut PgConnection, partition: i16) -> Result<Checkpoint, Error> {
    let row = sqlx::query_as!(
        Row,
        "SELECT seq, frame_id, frame_time, stream_created, events, claims_generation, claims_table, claims_since,
                claims_turned_seq, claims_turned_before_seq
         FROM projection_checkpoint WHERE partition = $1 FOR UPDATE",
        partition
    )
    .fetch_one(conn)
    .await?;
    Ok(row.into())
}

/// Begins to write ahead of the checkpoint's lock: until the transaction ends nobody has the checkpoint
/// [for himself](lock_alone). Nobody else is kept waiting.
pub async fn share(conn: &mut PgConnection) -> Result<(), Error> {
    conn.execute("LOCK TABLE projection_checkpoint IN ROW SHARE MODE").await?;
    Ok(())
}

/// Waits for all batches that are being applied, also those that are written ahead of the checkpoint's lock, and keeps
/// new ones away until the transaction ends. For whoever claims ids or adds rows out of the log's order: a batch that
/// is written ahead takes it that between its claims and its turn only the batch before it changed anything.
pub async fn lock_alone(conn: &mut PgConnection) -> Result<(), Error> {
    conn.execute("LOCK TABLE projection_checkpoint IN EXCLUSIVE MODE").await?;
    Ok(())
}

/// Moves the checkpoint from `old_seq` and, in the live schema, announces it when the transaction commits.
///
/// # Errors
/// [`Error::CheckpointMoved`] when it is not at `old_seq`; the caller's transaction must not commit then.
pub async fn advance(
    conn: &mut PgConnection,
    schema: Schema,
    partition: i16,
    old_seq: u64,
    new: &Checkpoint,
) -> Result<(), Error> {
    let moved = sqlx::query_scalar!(
        r#"WITH moved AS (
               UPDATE projection_checkpoint
               SET seq = $3, frame_id = $4, frame_time = $5, stream_created = $6, events = $7,
                   claims_generation = $9, claims_table = $10, claims_since = $11, claims_turned_seq = $12,
                   claims_turned_before_seq = $13
               WHERE partition = $1 AND seq = $2
               RETURNING seq)
           SELECT seq AS "seq!" FROM moved
           WHERE NOT $8 OR pg_notify('ledger_projected', seq::text) IS NOT NULL"#,
        partition,
        seq_to_column(old_seq),
        seq_to_column(new.seq),
        new.frame_id,
        new.frame_time,
        new.stream_created,
        seq_to_column(new.events),
        schema == Schema::Live,
        seq_to_column(new.claims.number),
        new.claims.table_column(),
        new.claims.since,
        seq_to_column(new.claims.turned_seq),
        seq_to_column(new.claims.turned_before_seq),
    )
    .fetch_all(conn)
    .await?;
    match moved.len() {
        1 => Ok(()),
        _ => Err(Error::CheckpointMoved { partition, expected_seq: old_seq }),
    }
}

struct Row {
    seq: i64,
    frame_id: String,
    frame_time: Option<DateTime<Utc>>,
    stream_created: Option<DateTime<Utc>>,
    events: i64,
    claims_generation: i64,
    claims_table: i16,
    claims_since: Option<DateTime<Utc>>,
    claims_turned_seq: i64,
    claims_turned_before_seq: i64,
}

impl From<Row> for Checkpoint {
    fn from(row: Row) -> Self {
        Self {
            seq: seq_from_column(row.seq),
            frame_id: row.frame_id,
            frame_time: row.frame_time,
            stream_created: row.stream_created,
            events: seq_from_column(row.events),
            claims: Generations {
                number: seq_from_column(row.claims_generation),
                table: usize::try_from(row.claims_table).unwrap_or(0),
                since: row.claims_since,
                turned_seq: seq_from_column(row.claims_turned_seq),
                turned_before_seq: seq_from_column(row.claims_turned_before_seq),
            },
        }
    }
}
