//! `rebuild --only summaries`: the sums alone, counted from the log.

use sqlx::{Connection, PgConnection};
use store::operations::mend;
use store::projection::checkpoint::{self, PARTITION};
use store::projection::periods;
use store::projection::summaries::key_usage;

use crate::job::{Compared, Rebuild};
use crate::recount::{Count, Mends, Scope};

use super::error::RebuildError;

/// Summaries that are mended while the projector waits: some 20 ms.
const MENDED_AT_ONCE: usize = 1_000;

/// Counts, compares and, unless it is a dry run, mends those that differ. What differs at one position of the log
/// differs by as much later on, so nobody waits for the count.
pub(super) async fn rebuild(
    rebuild: &Rebuild<'_>,
    live: &mut PgConnection,
    dry_run: bool,
) -> Result<Compared, RebuildError> {
    let count = Count::start(rebuild, None, Scope::Summaries).await?;
    let mend = (!dry_run).then_some(async |mends: &Mends| {
        // The projector waits in each of these transactions; readers do not.
        for summaries in mends.summaries.chunks(MENDED_AT_ONCE) {
            let mut tx = live.begin().await?;
            checkpoint::lock(&mut tx, PARTITION).await?;
            mend::summaries(&mut tx, summaries).await?;
            tx.commit().await?;
        }
        for keys in mends.keys.chunks(MENDED_AT_ONCE) {
            let mut tx = live.begin().await?;
            checkpoint::lock(&mut tx, PARTITION).await?;
            key_usage::mend(&mut tx, keys, mends.seq).await?;
            tx.commit().await?;
        }
        for late in mends.late.chunks(MENDED_AT_ONCE) {
            let mut tx = live.begin().await?;
            checkpoint::lock(&mut tx, PARTITION).await?;
            periods::add_late(&mut tx, late).await?;
            tx.commit().await?;
        }
        Ok(())
    });
    Ok(count.compare(mend).await?)
}
