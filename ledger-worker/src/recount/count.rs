//! A count of the log from its beginning on, as far as a checkpoint, and further.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use ledger::UserId;
use nats::{Continuity, Log};
use sqlx::PgConnection;
use store::Position;
use store::projection::completions::{self, Completion};
use store::projection::dead_letters;

use crate::batch::BatchError;
use crate::log::{AheadError, accepted_gaps, each_frame};

use super::tally::{Tally, Unmatched};

/// Dead letters that are read at a time.
const PAGE: i64 = 10_000;

/// Failure to count the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CountError {
    /// The log is not whole, or away.
    #[error(transparent)]
    Read(#[from] AheadError),
    /// Its frames make no batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Completions name calls that are not remembered.
    #[error("{calls} calls were completed long after they began")]
    LateCompletions {
        /// Their number.
        calls: usize,
    },
    /// The database is away or refuses.
    #[error("the projections cannot be read or written")]
    Store(#[from] store::Error),
}

/// A count of the log from its beginning on, which can go on.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) tally: Tally,
    continuity: Continuity,
}

impl Counted {
    /// Nothing yet: the log is read from its first sequence on.
    pub(crate) async fn start(
        conn: &mut PgConnection,
        log: &Log,
        only: Option<UserId>,
    ) -> Result<Self, CountError> {
        let accepted = accepted_gaps(conn, log).await?;
        let continuity = Continuity::new(log.stream().clone(), 0, HashMap::new(), accepted);
        let dead = dead_positions(conn).await?;
        Ok(Self { tally: Tally::new(only, dead), continuity })
    }

    /// The same, which follows the audit chains too.
    pub(crate) fn with_audit(self) -> Self {
        Self { tally: self.tally.with_audit(), ..self }
    }
}

/// Goes on counting up to `target`.
pub(crate) async fn count(
    log: &Log,
    counted: Counted,
    target: u64,
    tell: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Counted, CountError> {
    let Counted { tally, continuity } = counted;
    let (tally, continuity) = each_frame(log, continuity, target, tally, Tally::frame, tell).await?;
    if let Some(seq) = tally.earlier_build() {
        return Err(BatchError::EarlierBuild { seq }.into());
    }
    Ok(Counted { tally, continuity })
}

/// Positions of all dead letters.
pub(crate) async fn dead_positions(conn: &mut PgConnection) -> Result<HashSet<Position>, store::Error> {
    let mut dead = HashSet::new();
    let mut after = None;
    loop {
        let page = dead_letters::list(conn, None, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(dead) };
        after = Some(last.position);
        dead.extend(page.iter().map(|letter| letter.position));
    }
}

/// A completion may name a call that the count has forgotten; if it took effect, the count is wrong.
pub(crate) async fn refuse_late_completions(
    conn: &mut PgConnection,
    unmatched: &[Unmatched],
) -> Result<(), CountError> {
    let mut calls = 0;
    for page in unmatched.chunks(1_000) {
        let completions: Vec<Completion> = page.iter().map(completion).collect();
        calls += completions::find(conn, &completions).await?.into_iter().flatten().count();
    }
    if calls > 0 { Err(CountError::LateCompletions { calls }) } else { Ok(()) }
}

fn completion(unmatched: &Unmatched) -> Completion {
    let Unmatched { user, completed, position } = unmatched;
    let at: DateTime<Utc> = completed.call_time;
    Completion {
        user: *user,
        call_id: completed.call_id,
        call_time: completed.call_time,
        position: *position,
        at,
        status_code: completed.status_code,
        response_time_ms: completed.response_time_ms,
        response_size: completed.response_size,
        counted: completed.counted,
    }
}
