//! `rebuild --only summaries`: the sums alone, counted in memory.

use std::collections::HashSet;

use sqlx::{Connection, PgConnection};
use store::Position;
use store::operations::recount;
use store::projection::checkpoint::{self, PARTITION};

use crate::log::sound_checkpoint;
use crate::recount::{Counted, count, dead_positions, refuse_late_completions};

use super::error::RebuildError;
use super::job::{Compared, Progress, Rebuild};

/// Counts, compares and, unless it is a dry run, replaces.
pub(super) async fn rebuild(
    rebuild: &Rebuild<'_>,
    live: &mut PgConnection,
    dry_run: bool,
) -> Result<Compared, RebuildError> {
    (rebuild.progress)(Progress::Step("counting"));
    let near = sound_checkpoint::<RebuildError>(live, rebuild.log).await?;
    let counted = Counted::start(live, rebuild.log, None).await?;
    let mut counted = count(rebuild.log, counted, near, &rebuild.progress_to(near)).await?;
    let mut tx = live.begin().await?;
    // The projector waits from here on; readers do not.
    let seq = checkpoint::lock(&mut tx, PARTITION).await?.seq;
    let now_dead = dead_positions(&mut tx).await?;
    let of = |dead: &HashSet<Position>| -> HashSet<Position> {
        dead.iter().filter(|position| position.seq <= near).copied().collect()
    };
    if of(&now_dead) != of(counted.tally.dead()) {
        return Err(RebuildError::DeadLettersMoved);
    }
    counted.tally.add_dead(now_dead);
    let counted = count(rebuild.log, counted, seq, &rebuild.progress_to(seq)).await?;
    refuse_late_completions(&mut tx, counted.tally.unmatched()).await?;
    (rebuild.progress)(Progress::Step("comparing"));
    let (summaries, calls) = counted.tally.sums();
    recount::stage(&mut tx, &summaries, &calls, &counted.tally.late()).await?;
    let events = counted.tally.events();
    let compared = Compared::by(&mut tx, seq, events, recount::sums(None)).await?;
    if !dry_run && !compared.differences.is_empty() {
        (rebuild.progress)(Progress::Step("replacing"));
        recount::replace(&mut tx).await?;
    }
    tx.commit().await?;
    Ok(compared)
}
