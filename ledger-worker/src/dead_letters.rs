//! Dead letters, tried again: after an upgrade, or after what stood in their way was mended.

use std::collections::BTreeSet;

use data_keys::{Keys, KeysError};
use ledger::Month;
use nats::{Log, LogError, RawFrame, Stop};
use sqlx::{Connection, PgConnection};
use store::Position;
use store::projection::checkpoint::{self, PARTITION};
use store::projection::dead_letters::{self, DeadLetter, Reason};
use store::projection::partitions::{self, Partition};

use crate::batch::{Item, KnownDataKeys, Parsed, apply_late};
use crate::error::chain;
use crate::log::sound_checkpoint;

/// Dead letters that are read at a time.
const PAGE: i64 = 500;

/// Result of trying dead letters again.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RetryReport {
    /// Applied now, or found to be applied already: no dead letters any more.
    pub applied: u64,
    /// Still dead letters, with their new reason.
    pub still_dead: u64,
}

/// Reason for which retrying ended early.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// The database does not answer.
    #[error("the dead letters cannot be applied")]
    Store(#[from] store::Error),
    /// Their sealed fields cannot be opened.
    #[error("the dead letters cannot be opened")]
    Keys(#[from] KeysError),
    /// The log does not answer.
    #[error("the dead letters cannot be read")]
    Log(#[from] LogError),
    /// The stream is not the one that they are from: what stands at their places now is something else.
    #[error(transparent)]
    Stopped(#[from] Stop),
}

/// Tries the dead letter at `position` again; `None` when there is none.
pub async fn retry_one(
    conn: &mut PgConnection,
    log: &Log,
    keys: &Keys,
    position: Position,
) -> Result<Option<bool>, RetryError> {
    sound_checkpoint::<RetryError>(conn, log).await?;
    let mut letters = dead_letters::list(conn, None, before(position), 1).await?;
    let Some(letter) = letters.pop().filter(|letter| letter.position == position) else { return Ok(None) };
    let frame = log.frame_at(position.seq).await?;
    Ok(Some(retry(conn, keys, frame.as_ref(), letter).await?))
}

/// Tries all dead letters again, or those of one reason, in the log's order. It may run beside the projector.
pub async fn retry_all(
    conn: &mut PgConnection,
    log: &Log,
    keys: &Keys,
    reason: Option<Reason>,
) -> Result<RetryReport, RetryError> {
    sound_checkpoint::<RetryError>(conn, log).await?;
    let mut report = RetryReport::default();
    let mut after = None;
    let mut frame: Option<RawFrame> = None;
    loop {
        let letters = dead_letters::list(conn, reason, after, PAGE).await?;
        let Some(last) = letters.last() else { return Ok(report) };
        after = Some(last.position);
        for letter in letters {
            if frame.as_ref().is_none_or(|frame| frame.seq != letter.position.seq) {
                frame = log.frame_at(letter.position.seq).await?;
            }
            if retry(conn, keys, frame.as_ref(), letter).await? {
                report.applied += 1;
            } else {
                report.still_dead += 1;
            }
        }
    }
}

async fn retry(
    conn: &mut PgConnection,
    keys: &Keys,
    frame: Option<&RawFrame>,
    letter: DeadLetter,
) -> Result<bool, RetryError> {
    let Some(frame) = frame.filter(|frame| frame.header.is_ok()) else {
        return Ok(keep(conn, letter, "its frame is not in the log any more, or damaged".to_owned()).await?);
    };
    let mut known = KnownDataKeys::of(keys);
    let mut parsed = Parsed::one(frame, letter.position.idx, &known);
    let unknown = parsed.unknown_keys();
    if !unknown.is_empty() {
        known.look_up(conn, &unknown).await?;
        parsed = Parsed::one(frame, letter.position.idx, &known);
    }
    parsed.report_unreadable();
    let months: BTreeSet<Month> = parsed.items().iter().filter_map(Item::month).collect();
    for month in months {
        if partitions::ensure(conn, month).await? == Partition::Detached {
            parsed.bury_month(month);
        }
    }
    let mut tx = conn.begin().await.map_err(store::Error::from)?;
    // The projector locks it too: neither sees the other's work half done.
    checkpoint::lock(&mut tx, PARTITION).await?;
    if !dead_letters::remove(&mut tx, letter.position).await? {
        return Ok(true);
    }
    match apply_late(&mut tx, &parsed).await {
        Ok(applied) => {
            tx.commit().await.map_err(store::Error::from)?;
            Ok(applied.dead == 0)
        }
        Err(error) if error.is_refused() => {
            tx.rollback().await.map_err(store::Error::from)?;
            Ok(keep(conn, DeadLetter { reason: Reason::Refused, ..letter }, chain(&error)).await?)
        }
        Err(error) => Err(error.into()),
    }
}

async fn keep(conn: &mut PgConnection, letter: DeadLetter, detail: String) -> Result<bool, store::Error> {
    dead_letters::record(conn, &DeadLetter { detail, ..letter }).await?;
    Ok(false)
}

/// The position just before, so that a list after it begins with `position`.
fn before(position: Position) -> Option<Position> {
    match (position.seq, position.idx) {
        (seq, 0) => seq.checked_sub(1).map(|seq| Position { seq, idx: u16::MAX }),
        (seq, idx) => Some(Position { seq, idx: idx - 1 }),
    }
}
