//! Verification: whether log, rows and sums agree, and whether what is sealed for a user opens.
//!
//! Counts by `recount/`, which adds up by other code than the projector's. Reads the tables in one snapshot, and
//! changes nothing.

mod error;
mod sealed;

use ledger::UserId;
use sqlx::Connection;
use store::Schema;
use store::operations::recount;

use crate::log::sound_checkpoint;
use crate::rebuild::{Compared, Progress, Rebuild};
use crate::recount::{Counted, count, refuse_late_completions};

pub use error::VerifyError;
pub use sealed::{Fault, SealedReport, Tried, open_all};

/// Counts the log up to the checkpoint, and compares it with the stored sums, with the calls themselves, these with the
/// sums and with the hours that are compacted, and the audit chains link by link; of one user, or of all. Everything is
/// seen as at one instant, beside a projector that goes on.
pub async fn verify(rebuild: &Rebuild<'_>, user: Option<UserId>) -> Result<Compared, VerifyError> {
    let mut conn = store::connect(rebuild.database_url, Schema::Live).await?;
    let mut snapshot = conn.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    let seq = sound_checkpoint::<VerifyError>(&mut snapshot, rebuild.log).await?;
    (rebuild.progress)(Progress::Step("counting"));
    let counted = Counted::start(&mut snapshot, rebuild.log, user).await?.with_audit();
    let counted = count(rebuild.log, counted, seq, &rebuild.progress_to(seq)).await?;
    refuse_late_completions(&mut snapshot, counted.tally.unmatched()).await?;
    (rebuild.progress)(Progress::Step("comparing"));
    let (summaries, calls) = counted.tally.sums();
    recount::stage(&mut snapshot, &summaries, &calls, &counted.tally.late()).await?;
    if let Some(audit) = counted.tally.audit() {
        recount::stage_vault(&mut snapshot, audit.links(), &audit.tokens()).await?;
    }
    let comparisons =
        [recount::sums(user), recount::rows(user), recount::hours(user), recount::vault(user)].concat();
    let compared = Compared::by(&mut snapshot, seq, counted.tally.events(), comparisons).await?;
    snapshot.rollback().await?;
    Ok(compared)
}
