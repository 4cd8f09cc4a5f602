//! Dead letters, tried again: after an upgrade by the worker itself, or after what stood in their way was mended.
//!
//! It runs beside the projector, a letter a transaction, which the checkpoint's lock keeps apart from the batches.

use std::collections::BTreeSet;
use std::time::Duration;

use data_keys::{Keys, KeysError};
use events::event_type;
use ledger::Month;
use nats::{Log, LogError, RawFrame, Stop};
use sqlx::{Connection, PgConnection, PgPool};
use store::Position;
use store::projection::checkpoint;
use store::projection::dead_letters::{self, DeadLetter, Reason};
use store::projection::partitions::{self, Partition};
use tokio_util::sync::CancellationToken;

use crate::batch::{Item, KnownDataKeys, Parsed, apply_late};
use crate::error::chain;
use crate::log::sound_checkpoint;
use crate::status::Status;
use crate::step::step;

/// Dead letters that are read at a time.
const PAGE: i64 = 500;
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(30);

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
    let mut retrying = Retrying { log, keys, frame: None, report: RetryReport::default() };
    let mut after = None;
    while let Some(last) = retrying.page(conn, reason, after, |_| true).await? {
        after = Some(last);
    }
    Ok(retrying.report)
}

/// Tries the events again that an earlier build did not know and this one does.
pub(crate) struct Retrier {
    pub(crate) pool: PgPool,
    pub(crate) log: Log,
    pub(crate) keys: Keys,
    pub(crate) status: Status,
}

impl Retrier {
    /// Goes once through the dead letters whenever this worker has become the active one and has caught up. What it has
    /// applied is a dead letter no more, so that one that is ended half-way is gone on with.
    pub(crate) async fn run(&self, shutdown: &CancellationToken) {
        tokio::select! {
            () = self.retry_for_ever() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn retry_for_ever(&self) {
        let mut caught_up = self.status.caught_up();
        loop {
            // The sender lives as long as the status, which this holds.
            let _ = caught_up.wait_for(|caught_up| *caught_up).await;
            let mut after = None;
            while let Err(error) = self.retry_known(&mut after).await {
                tracing::warn!(
                    error = chain(&error),
                    "dead letters of an earlier version were not retried; trying again"
                );
                tokio::time::sleep(PAUSE).await;
            }
            let _ = caught_up.wait_for(|caught_up| !*caught_up).await;
        }
    }

    /// Goes on after `after`, which it moves.
    async fn retry_known(&self, after: &mut Option<Position>) -> Result<(), RetryError> {
        let mut retrying =
            Retrying { log: &self.log, keys: &self.keys, frame: None, report: RetryReport::default() };
        // Of a type that is still unknown not even the frame is read. One whose type nobody could read is tried.
        let is_known =
            |letter: &DeadLetter| letter.event_type.is_empty() || event_type::is_known(&letter.event_type);
        loop {
            let page = async {
                let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
                retrying.page(&mut conn, Some(Reason::Unknown), *after, is_known).await
            };
            let Some(last) = step("retrying dead letters", page).await? else { break };
            *after = Some(last);
        }
        if retrying.report.applied > 0 {
            let applied = retrying.report.applied;
            tracing::info!(applied, "applied events that an earlier version did not know");
        }
        Ok(())
    }
}

/// Dead letters that are tried again, page by page.
struct Retrying<'a> {
    log: &'a Log,
    keys: &'a Keys,
    /// The last frame that was read: letters that follow each other often share it.
    frame: Option<RawFrame>,
    report: RetryReport,
}

impl Retrying<'_> {
    /// Tries those of a page that `is_wanted`; answers the page's last position, `None` behind the last page.
    async fn page(
        &mut self,
        conn: &mut PgConnection,
        reason: Option<Reason>,
        after: Option<Position>,
        is_wanted: impl Fn(&DeadLetter) -> bool,
    ) -> Result<Option<Position>, RetryError> {
        sound_checkpoint::<RetryError>(conn, self.log).await?;
        let letters = dead_letters::list(conn, reason, after, PAGE).await?;
        let last = letters.last().map(|letter| letter.position);
        for letter in letters.into_iter().filter(is_wanted) {
            let seq = letter.position.seq;
            if self.frame.as_ref().is_none_or(|frame| frame.seq != seq) {
                self.frame = self.log.frame_at(seq).await?;
            }
            if retry(conn, self.keys, self.frame.as_ref(), letter).await? {
                self.report.applied += 1;
            } else {
                self.report.still_dead += 1;
            }
        }
        Ok(last)
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
    checkpoint::lock_alone(&mut tx).await?;
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
