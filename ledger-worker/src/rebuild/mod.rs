//! Rebuilding the projections from the log, beside the projector that goes on.
//!
//! The whole of them goes into a schema of its own, filled by the very code that the projector runs, and is then
//! exchanged with the live one in one transaction. The sums alone are counted by `recount/`, which is faster, and those
//! that differ are mended. May touch `ledger_next`, and the live tables in those two transactions.

mod error;
mod fill;
mod summaries;

use std::time::Duration;

use data_keys::Keys;
use nats::Stop;
use sqlx::{Connection, PgConnection};
use store::Schema;
use store::operations::next_schema;
use store::operations::session_locks::{self, Lock};
use store::projection::checkpoint::{self, PARTITION};

use crate::log::LogCheck;

pub use crate::job::{Compared, Finish, Progress, Rebuild, Room};
pub use error::RebuildError;

use fill::Fill;

/// So near to the live projection filling ends, and the rest is done while the projector waits.
const NEAR_FRAMES: u64 = 200;
/// Times that filling catches up with a projector that goes on.
const MAX_ROUNDS: u32 = 1_000;
/// Time for which readers of one table are waited for. Below PostgreSQL's `deadlock_timeout` of a second.
const READERS_WAIT_MS: u32 = 300;
/// Time for which a swap is tried in all.
const SWAP_WITHIN: Duration = Duration::from_mins(1);
/// Time for which the lock of an earlier rebuild is waited for.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(100);
const SWAP_PAUSE: Duration = Duration::from_millis(200);

impl Rebuild<'_> {
    /// Fills fresh tables from the log, compares them with the live ones, and then does as `finish` says. After a crash
    /// it goes on where it was.
    pub async fn run(&self, keys: &Keys, finish: Finish) -> Result<Compared, RebuildError> {
        let mut live = self.lock().await?;
        if finish == Finish::Swap {
            // Filling may take hours; the exchange looks again.
            refuse_dependants(&mut live).await?;
        }
        let mut fill = Fill::open(self, keys, &mut live).await?;
        (self.progress)(Progress::Step("filling"));
        self.catch_up(&mut live, &mut fill).await?;
        let mut compared = self.compare(&mut live, &mut fill).await?;
        match finish {
            Finish::Swap => self.exchange(&mut live, &mut fill).await?,
            Finish::Hold => {}
            Finish::DryRun => {
                next_schema::drop_next(&mut live).await?;
            }
        }
        compared.events = fill.events();
        Ok(compared)
    }

    /// Exchanges what an earlier run held back, after catching up.
    pub async fn swap(&self, keys: &Keys) -> Result<(), RebuildError> {
        let mut live = self.lock().await?;
        if next_schema::version(&mut live).await?.is_none() {
            return Err(RebuildError::NothingHeld);
        }
        let mut fill = Fill::open(self, keys, &mut live).await?;
        (self.progress)(Progress::Step("filling"));
        self.catch_up(&mut live, &mut fill).await?;
        self.exchange(&mut live, &mut fill).await
    }

    /// Drops what an earlier run left; `false` when there was nothing.
    pub async fn drop_held(&self) -> Result<bool, RebuildError> {
        let mut live = self.lock().await?;
        Ok(next_schema::drop_next(&mut live).await?)
    }

    /// Counts the summaries anew, and unless it is a dry run, mends those that differ.
    pub async fn summaries(&self, dry_run: bool) -> Result<Compared, RebuildError> {
        let mut live = self.lock().await?;
        summaries::rebuild(self, &mut live, dry_run).await
    }

    /// The connection that keeps other rebuilds away, with what an interrupted swap left cleared.
    async fn lock(&self) -> Result<PgConnection, RebuildError> {
        let mut live = store::connect(self.database_url, Schema::Live).await?;
        // The server may not have noticed yet that an earlier one ended or was killed.
        let until = tokio::time::Instant::now() + LOCK_WITHIN;
        while !session_locks::try_lock(&mut live, Lock::Rebuild).await? {
            if tokio::time::Instant::now() > until {
                return Err(RebuildError::Busy);
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        next_schema::drop_old(&mut live).await?;
        Ok(live)
    }

    /// The sequence up to which the log is to be projected: as far as the live projection is. One that was made from
    /// frames that the stream will never have again says nothing; all that the stream has takes its place.
    async fn target(&self, conn: &mut PgConnection) -> Result<u64, RebuildError> {
        let checkpoint = checkpoint::read(conn, PARTITION).await?;
        let state = self.log.state().await?;
        match LogCheck::of::<RebuildError>(conn, self.log, &checkpoint, &state).await? {
            LogCheck::Same => Ok(checkpoint.seq),
            LogCheck::Lost { .. } | LogCheck::Other(Stop::StreamReplaced { .. }) => Ok(state.last_seq),
            LogCheck::Other(stop) => Err(RebuildError::Stopped(stop)),
        }
    }

    /// Comes near to the live projection, which goes on.
    async fn catch_up(&self, live: &mut PgConnection, fill: &mut Fill<'_>) -> Result<(), RebuildError> {
        for _ in 0..MAX_ROUNDS {
            let target = self.target(live).await?;
            if target <= fill.seq() + NEAR_FRAMES && fill.events() > 0 || target <= fill.seq() {
                break;
            }
            fill.up_to(target).await?;
        }
        Ok(())
    }

    /// Compares both projections table by table, calls month by month, each at one position of the log: no snapshot is
    /// older than that takes. The projector waits only until both are level.
    async fn compare(&self, live: &mut PgConnection, fill: &mut Fill<'_>) -> Result<Compared, RebuildError> {
        (self.progress)(Progress::Step("comparing"));
        let mut reader = store::connect(self.database_url, Schema::Live).await?;
        let mut compared = Compared::default();
        for comparison in store::operations::compare::next_with_live(&mut reader).await? {
            // The last comparison may have taken long, and the projector has gone on.
            self.catch_up(live, fill).await?;
            let mut hold = live.begin().await?;
            next_schema::hold_projector(&mut hold).await?;
            let seq = self.target(&mut hold).await?;
            fill.up_to(seq).await?;
            compared.seq = fill.seq();
            fill.align().await?;
            let mut snapshot = reader.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let (_, next_seq) = next_schema::checkpoints(&mut snapshot, PARTITION).await?;
            store::operations::compare::keep_claims(&mut snapshot).await?;
            hold.rollback().await?;
            debug_assert_eq!(next_seq, compared.seq, "nobody else fills it");
            compared.add(&mut snapshot, comparison).await?;
            snapshot.rollback().await?;
        }
        Ok(compared)
    }

    async fn exchange(&self, live: &mut PgConnection, fill: &mut Fill<'_>) -> Result<(), RebuildError> {
        (self.progress)(Progress::Step("swapping"));
        let until = tokio::time::Instant::now() + SWAP_WITHIN;
        loop {
            self.catch_up(live, fill).await?;
            let mut tx = live.begin().await?;
            next_schema::hold_projector(&mut tx).await?;
            let target = self.target(&mut tx).await?;
            fill.up_to(target).await?;
            if next_schema::lock_out_readers(&mut tx, READERS_WAIT_MS).await? {
                // None can be made any more.
                refuse_dependants(&mut tx).await?;
                next_schema::exchange(&mut tx).await?;
                tx.commit().await?;
                break;
            }
            tx.rollback().await?;
            if tokio::time::Instant::now() > until {
                return Err(RebuildError::Readers { within: SWAP_WITHIN });
            }
            tokio::time::sleep(SWAP_PAUSE).await;
        }
        next_schema::drop_old(live).await?;
        Ok(())
    }
}

async fn refuse_dependants(conn: &mut PgConnection) -> Result<(), RebuildError> {
    let names = next_schema::dependants(conn).await?;
    if names.is_empty() { Ok(()) } else { Err(RebuildError::Dependants { names }) }
}
