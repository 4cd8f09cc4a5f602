//! `rebuild --only summaries`, and the count that it shares with `verify`.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use ledger::UserId;
use nats::Continuity;
use sqlx::{Connection, PgConnection};
use store::checkpoint::{self, PARTITION};
use store::completions::{self, Completion};
use store::{Position, dead_letters, recount};

use crate::batch::BatchError;
use crate::log::{accepted_gaps, each_frame, sound_checkpoint};
use crate::recount::{Tally, Unmatched};

use super::{MAX_NAMED_ROWS, Outcome, Progress, Rebuild, RebuildError};

const PAGE: i64 = 10_000;

/// A count of the log from its beginning on, which can go on.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) tally: Tally,
    continuity: Continuity,
}

impl Counted {
    /// Nothing yet: the log is read from its first sequence on.
    pub(crate) async fn start(
        rebuild: &Rebuild<'_>,
        conn: &mut PgConnection,
        only: Option<UserId>,
    ) -> Result<Self, RebuildError> {
        let accepted = accepted_gaps(conn, rebuild.log).await?;
        let continuity = Continuity::new(rebuild.log.stream().clone(), 0, HashMap::new(), accepted);
        let dead = dead(conn).await?;
        Ok(Self { tally: Tally::new(only, dead), continuity })
    }

    /// The same, which follows the audit chains too.
    pub(crate) fn with_audit(self) -> Self {
        Self { tally: self.tally.with_audit(), ..self }
    }
}

/// Goes on counting up to `target`.
pub(crate) async fn count(
    rebuild: &Rebuild<'_>,
    counted: Counted,
    target: u64,
) -> Result<Counted, RebuildError> {
    let Counted { tally, continuity } = counted;
    let tell = |seq, events| (rebuild.progress)(Progress::At { seq, target, events });
    let (tally, continuity) = each_frame(rebuild.log, continuity, target, tally, Tally::frame, &tell).await?;
    if let Some(seq) = tally.earlier_build() {
        return Err(BatchError::EarlierBuild { seq }.into());
    }
    Ok(Counted { tally, continuity })
}

/// Counts, compares and, unless it is a dry run, replaces.
pub(super) async fn rebuild(
    rebuild: &Rebuild<'_>,
    live: &mut PgConnection,
    dry_run: bool,
) -> Result<Outcome, RebuildError> {
    (rebuild.progress)(Progress::Step("counting"));
    let near = sound_checkpoint::<RebuildError>(live, rebuild.log).await?;
    let counted = Counted::start(rebuild, live, None).await?;
    let mut counted = count(rebuild, counted, near).await?;
    let mut tx = live.begin().await?;
    // The projector waits from here on; readers do not.
    let seq = checkpoint::lock(&mut tx, PARTITION).await?.seq;
    let now_dead = dead(&mut tx).await?;
    let of = |dead: &HashSet<Position>| -> HashSet<Position> {
        dead.iter().filter(|position| position.seq <= near).copied().collect()
    };
    if of(&now_dead) != of(counted.tally.dead()) {
        return Err(RebuildError::DeadLettersMoved);
    }
    counted.tally.add_dead(now_dead);
    let counted = count(rebuild, counted, seq).await?;
    refuse_late_completions(&mut tx, counted.tally.unmatched()).await?;
    (rebuild.progress)(Progress::Step("comparing"));
    let (summaries, hours) = counted.tally.sums();
    recount::stage(&mut tx, &summaries, &hours).await?;
    let events = counted.tally.events();
    let mut outcome = Outcome { seq, events, tables: Vec::new(), differences: Vec::new() };
    for comparison in recount::sums(None) {
        outcome.differences.extend(comparison.run(&mut tx, MAX_NAMED_ROWS).await?);
        outcome.tables.push(comparison.name);
    }
    if !dry_run && !outcome.differences.is_empty() {
        (rebuild.progress)(Progress::Step("replacing"));
        recount::replace(&mut tx).await?;
    }
    tx.commit().await?;
    Ok(outcome)
}

/// Positions of all dead letters.
pub(crate) async fn dead(conn: &mut PgConnection) -> Result<HashSet<Position>, RebuildError> {
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
) -> Result<(), RebuildError> {
    let mut calls = 0;
    for page in unmatched.chunks(1_000) {
        let completions: Vec<Completion> = page.iter().map(completion).collect();
        calls += completions::find(conn, &completions).await?.into_iter().flatten().count();
    }
    if calls > 0 { Err(RebuildError::LateCompletions { calls }) } else { Ok(()) }
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
