//! Ids that count once: client-supplied ones, and those of resets, plan changes and what is audited.
//!
//! A claim is remembered for two generations: ids are claimed in the current one, and looked for in the one before it,
//! too. A turn ends the current one and forgets the one before. Which of three tables is which stands in the
//! checkpoint's row, which the projector holds for every batch.

use chrono::{DateTime, Utc};
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::Error;
use crate::position::{seq_from_column, seq_to_column};
use crate::projection::usage_rows;

/// An id and the sequence of the frame that brings it.
pub type Claim = (Uuid, u64);

const TABLES: [&str; 3] = ["event_claims_0", "event_claims_1", "event_claims_2"];

/// The generations of claims, as a checkpoint has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Generations {
    /// Number of the current one, from 0.
    pub number: u64,
    /// Index of its table, 0 to 2.
    pub(super) table: usize,
    /// Time at which the log stored the frame of its first claim; none before.
    pub since: Option<DateTime<Utc>>,
    /// Sequence of the turn that began it; 0 for the first.
    pub(super) turned_seq: u64,
    /// Sequence of the turn that began the one before; 0 for the first.
    pub(super) turned_before_seq: u64,
}

impl Generations {
    pub(super) fn table_column(&self) -> i16 {
        i16::try_from(self.table).unwrap_or(0)
    }

    fn current(&self) -> &'static str {
        TABLES[self.table % 3]
    }

    /// None while there was no turn.
    fn previous(&self) -> Option<&'static str> {
        (self.turned_seq > 0).then(|| TABLES[(self.table + 2) % 3])
    }

    /// The table that the next generation gets.
    fn next(&self) -> &'static str {
        TABLES[(self.table + 1) % 3]
    }

    /// The table in which the claim of a frame with this sequence stands, if it was made when its turn came.
    fn of_frame(&self, seq: u64) -> Option<&'static str> {
        if seq > self.turned_seq || self.turned_seq == 0 {
            Some(self.current())
        } else if seq > self.turned_before_seq || self.turned_before_seq == 0 {
            self.previous()
        } else {
            None
        }
    }
}

/// Those of the ids that were claimed in the generation before the current one.
pub async fn find_previous(
    conn: &mut PgConnection,
    generations: &Generations,
    claims: &[Claim],
) -> Result<Vec<Uuid>, Error> {
    let Some(table) = generations.previous() else { return Ok(Vec::new()) };
    let ids: Vec<Uuid> = claims.iter().map(|(id, _)| *id).collect();
    let query = format!("SELECT id FROM {table} WHERE id = ANY($1)");
    Ok(sqlx::query_scalar(&query).bind(ids).fetch_all(conn).await?)
}

/// Claims all of these ids in the current generation, or none. They are copied in the given order: sorted ones touch
/// each index page once.
///
/// # Errors
/// [`Error::Conflict`] when one of them is taken; the transaction is then to be rolled back to a savepoint.
pub async fn copy(conn: &mut PgConnection, generations: &Generations, claims: &[Claim]) -> Result<(), Error> {
    let mut buffer = Vec::with_capacity(32 + claims.len() * 34);
    buffer.extend_from_slice(usage_rows::copy_header());
    for (id, seq) in claims {
        buffer.extend_from_slice(&2_i16.to_be_bytes());
        buffer.extend_from_slice(&16_i32.to_be_bytes());
        buffer.extend_from_slice(id.as_bytes());
        buffer.extend_from_slice(&8_i32.to_be_bytes());
        buffer.extend_from_slice(&seq_to_column(*seq).to_be_bytes());
    }
    usage_rows::copy_into(conn, generations.current(), "id, log_seq", &buffer).await?;
    Ok(())
}

/// Claims those of the ids that are free in the current generation, and returns them.
pub async fn insert_new(
    conn: &mut PgConnection,
    generations: &Generations,
    claims: &[Claim],
) -> Result<Vec<Uuid>, Error> {
    insert(conn, generations.current(), claims).await
}

/// Claims an id out of the log's order, where it would stand if it had been claimed in it; `false` if it is taken. One
/// whose generation is forgotten leaves nothing.
pub async fn insert_late(
    conn: &mut PgConnection,
    generations: &Generations,
    claim: Claim,
) -> Result<bool, Error> {
    if !find(conn, &[claim.0]).await?.is_empty() {
        return Ok(false);
    }
    match generations.of_frame(claim.1) {
        Some(table) => Ok(!insert(conn, table, &[claim]).await?.is_empty()),
        None => Ok(true),
    }
}

/// Ends the generation of this number with the frame of this sequence, and forgets the one before it; `false`, and
/// nothing changes, if it has ended already. Where the projector is not alone with its tables, the next one was emptied
/// before ([`empty_forgotten`]), and nobody is waited for.
pub async fn turn(
    conn: &mut PgConnection,
    generations: &mut Generations,
    ended: u64,
    seq: u64,
) -> Result<bool, Error> {
    if ended < generations.number {
        return Ok(false);
    }
    let next = generations.next();
    if has_rows(conn, next).await? {
        conn.execute(sqlx::raw_sql(&format!("TRUNCATE {next}"))).await?;
    }
    *generations = Generations {
        number: ended.saturating_add(1),
        table: (generations.table + 1) % 3,
        since: None,
        turned_seq: seq,
        turned_before_seq: generations.turned_seq,
    };
    Ok(true)
}

/// Empties the table of the generation that was forgotten. `false`: somebody reads it, or the projector is at work for
/// long; to be tried again. The projector waits for it, a tenth of a second at most, and readers of claims as long.
pub async fn empty_forgotten(conn: &mut PgConnection) -> Result<bool, Error> {
    let next = of_checkpoint(conn, "").await?.next();
    if !has_rows(conn, next).await? {
        return Ok(true);
    }
    let mut tx = conn.begin().await?;
    match empty(&mut tx).await {
        Ok(()) => {
            tx.commit().await?;
            Ok(true)
        }
        Err(Error::Database(sqlx::Error::Database(error)))
            if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) =>
        {
            tx.rollback().await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// SQLSTATE of a lock that did not come within `lock_timeout`.
const LOCK_NOT_AVAILABLE: &str = "55P03";

async fn empty(tx: &mut PgConnection) -> Result<(), Error> {
    tx.execute("SET LOCAL lock_timeout = '1s'").await?;
    // No turn comes between: it may have been another table a moment ago.
    let next = of_checkpoint(tx, "FOR UPDATE").await?.next();
    tx.execute(sqlx::raw_sql(&format!("SET LOCAL lock_timeout = '100ms'; TRUNCATE {next}"))).await?;
    Ok(())
}

async fn of_checkpoint(conn: &mut PgConnection, lock: &str) -> Result<Generations, Error> {
    let query = format!("SELECT claims_table FROM projection_checkpoint WHERE partition = 0 {lock}");
    let table: i16 = sqlx::query_scalar(&query).fetch_one(conn).await?;
    Ok(Generations { table: usize::try_from(table).unwrap_or(0), ..Generations::default() })
}

async fn has_rows(conn: &mut PgConnection, table: &str) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(&format!("SELECT EXISTS (SELECT FROM {table})")).fetch_one(conn).await?)
}

async fn insert(conn: &mut PgConnection, table: &str, claims: &[Claim]) -> Result<Vec<Uuid>, Error> {
    let ids: Vec<Uuid> = claims.iter().map(|(id, _)| *id).collect();
    let seqs: Vec<i64> = claims.iter().map(|(_, seq)| seq_to_column(*seq)).collect();
    let query = format!(
        "INSERT INTO {table} (id, log_seq)
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[]) ON CONFLICT DO NOTHING RETURNING id"
    );
    Ok(sqlx::query_scalar(&query).bind(ids).bind(seqs).fetch_all(conn).await?)
}

/// The sequence of the frame that brought the event of this id, one of our own, if it is projected and not forgotten.
pub async fn seq_of(conn: &mut PgConnection, id: Uuid) -> Result<Option<u64>, Error> {
    let seq = sqlx::query_scalar!(r#"SELECT log_seq AS "log_seq!" FROM event_claims WHERE id = $1"#, id)
        .fetch_optional(conn)
        .await?;
    Ok(seq.map(seq_from_column))
}

/// Those of the ids that are claimed. There is no owner to ask for: an id is derived from its owner, its source and the
/// client's own id, so that nobody's can be another's.
pub async fn find(conn: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    let claimed = sqlx::query_scalar!(r#"SELECT id AS "id!" FROM event_claims WHERE id = ANY($1)"#, ids)
        .fetch_all(conn)
        .await?;
    Ok(claimed)
}
