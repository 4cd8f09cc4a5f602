//! Compacting hours: sums of users' days with many calls, made from the rows behind the checkpoint.
//!
//! A reconciler, of the active worker: it looks for days that are due, and each that it does is done for good or begun
//! anew. May touch the cache of hours and read calls; nothing else depends on it but how fast history is read.

use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool};
use store::operations::projector_status::State;
use store::projection::checkpoint::{self, PARTITION};
use store::projection::hours::{self, Claimed, ClaimedDay};
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::status::Status;
use crate::step::step;

/// Days that are claimed at a time, while the projector waits: a few milliseconds.
const DAYS_AT_ONCE: i64 = 20;
/// Time between two looks when nothing is due, or the worker is not the active one.
const INTERVAL: Duration = Duration::from_secs(2);
/// So much longer than a day's work is the pause after it: the projector has most of the machine when it catches up.
const PAUSE_FACTOR: u32 = 3;

/// Compacts hours as long as the worker is the active one.
pub(crate) struct Compactor {
    pub(crate) pool: PgPool,
    pub(crate) status: Status,
}

impl Compactor {
    /// Works until the worker ends.
    pub(crate) async fn run(&self, shutdown: &CancellationToken) {
        loop {
            if self.status.state() == State::Running
                && let Err(error) = self.compact_due(shutdown).await
            {
                tracing::warn!(error = chain(&error), "hours could not be compacted; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// All days that are due, with pauses.
    async fn compact_due(&self, shutdown: &CancellationToken) -> Result<(), store::Error> {
        let mut conn = self.pool.acquire().await?;
        while step("looking for hours", hours::is_due(&mut conn)).await? {
            let claimed = step("claiming hours", claim(&mut conn)).await?;
            if claimed.looked_at == 0 {
                break;
            }
            for day in claimed.days {
                let began = tokio::time::Instant::now();
                step("compacting hours", compact(&mut conn, &day)).await?;
                tokio::select! {
                    () = tokio::time::sleep(began.elapsed() * PAUSE_FACTOR) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
            }
        }
        Ok(())
    }
}

/// Claims days that are due, between two batches.
///
/// # Errors
/// When the database is away or refuses.
pub async fn claim(conn: &mut PgConnection) -> Result<Claimed, store::Error> {
    let mut tx = conn.begin().await?;
    let checkpoint = checkpoint::lock(&mut tx, PARTITION).await?;
    let Some(log_time) = checkpoint.frame_time else { return Ok(Claimed::default()) };
    let claimed = hours::claim(&mut tx, PARTITION, log_time, DAYS_AT_ONCE).await?;
    tx.commit().await?;
    Ok(claimed)
}

/// Reads a claimed day's calls and puts their sums into the cache; `false` when one of them changed meanwhile.
///
/// # Errors
/// When the database is away or refuses.
pub async fn compact(conn: &mut PgConnection, day: &ClaimedDay) -> Result<bool, store::Error> {
    let sums = hours::read(conn, day).await?;
    let mut tx = conn.begin().await?;
    let is_done = hours::put(&mut tx, day, &sums).await?;
    tx.commit().await?;
    Ok(is_done)
}
