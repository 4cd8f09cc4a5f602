//! `verify`: do log, rows and sums agree, and does what is sealed for a user open?

mod sealed;

use ledger::UserId;
use sqlx::Connection;
use store::{Schema, recount};

use crate::log::sound_checkpoint;
use crate::rebuild::{
    Counted, MAX_NAMED_ROWS, Outcome, Progress, Rebuild, RebuildError, count, refuse_late_completions,
};

pub use sealed::{Fault, SealedReport, Tried, open_all};

/// Counts the log up to the checkpoint, and compares it with the stored sums, with the calls themselves, and these with
/// the sums, and the audit chains link by link; of one user, or of all. Everything is seen as at one instant, beside a projector that goes on.
pub async fn verify(rebuild: &Rebuild<'_>, user: Option<UserId>) -> Result<Outcome, RebuildError> {
    let mut conn = store::connect(rebuild.database_url, Schema::Live).await?;
    let mut snapshot = conn.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    let seq = sound_checkpoint::<RebuildError>(&mut snapshot, rebuild.log).await?;
    (rebuild.progress)(Progress::Step("counting"));
    let counted = Counted::start(rebuild, &mut snapshot, user).await?.with_audit();
    let counted = count(rebuild, counted, seq).await?;
    refuse_late_completions(&mut snapshot, counted.tally.unmatched()).await?;
    (rebuild.progress)(Progress::Step("comparing"));
    let (summaries, hours) = counted.tally.sums();
    recount::stage(&mut snapshot, &summaries, &hours).await?;
    if let Some(audit) = counted.tally.audit() {
        recount::stage_vault(&mut snapshot, audit.links(), &audit.tokens()).await?;
    }
    let mut outcome =
        Outcome { seq, events: counted.tally.events(), tables: Vec::new(), differences: Vec::new() };
    let comparisons = recount::sums(user).into_iter().chain(recount::rows(user)).chain(recount::vault(user));
    for comparison in comparisons {
        outcome.differences.extend(comparison.run(&mut snapshot, MAX_NAMED_ROWS).await?);
        outcome.tables.push(comparison.name);
    }
    snapshot.rollback().await?;
    Ok(outcome)
}
