//! Gate before all decisions: open while this process holds the lock against a second one, and the projection has
//! everything that another process, or this one before a restart, has admitted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use nats::Log;
use tokio_util::sync::CancellationToken;

use super::error::Unready;
use super::lock::ApiLock;
use super::log_end;
use super::projected::Projected;
use crate::facts::Watermark;

/// Gate before all decisions, open or closed.
pub(super) struct Gate {
    state: AtomicU8,
}

const OPEN: u8 = 0;
const CATCHING_UP: u8 = 1;
const NO_DATABASE: u8 = 2;
/// Closed for good.
const STOPPING: u8 = 3;

impl Gate {
    /// Closed until the projection has caught up.
    pub(super) fn new() -> Self {
        Self { state: AtomicU8::new(CATCHING_UP) }
    }

    pub(super) fn check(&self) -> Result<(), Unready> {
        match self.state.load(Ordering::Acquire) {
            OPEN => Ok(()),
            CATCHING_UP => Err(Unready::CatchingUp),
            STOPPING => Err(Unready::Stopping),
            _ => Err(Unready::Database),
        }
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Release);
    }
}

/// Opens and closes the gate until `shutdown`, which closes it for good; hands the lock back. It is to be held until
/// the last admitted call is in the log, or else the next process does not count that call when it begins. When the
/// session is lost another api may have taken the lock and admitted calls, so everything begins anew once the lock is
/// held again. When the projections were rewound the positions that were read are used anew, so everything begins anew
/// as well.
pub(super) async fn keep(
    gate: Arc<Gate>,
    mut lock: ApiLock,
    counts: Arc<Projected>,
    log: Log,
    watermark: Watermark,
    shutdown: CancellationToken,
) -> ApiLock {
    let mut rewinds = watermark.rewinds();
    let work = async {
        loop {
            tokio::select! {
                () = open(&gate, &counts, &log, &watermark) => {}
                // The sender lives as long as `watermark`.
                _ = rewinds.changed() => {
                    gate.set(CATCHING_UP);
                    counts.forget_readings();
                }
                () = lock.lost() => {
                    gate.set(NO_DATABASE);
                    tracing::error!("the database is away: nothing is admitted until it is back");
                    lock.regain().await;
                    gate.set(CATCHING_UP);
                    tracing::info!("the database is back");
                }
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
    gate.set(STOPPING);
    lock
}

/// Opens when the projection has reached what the log holds now. Never ends.
async fn open(gate: &Gate, counts: &Projected, log: &Log, watermark: &Watermark) {
    let last_seq = log_end::last_seq(log).await;
    counts.set_floor(last_seq);
    while !watermark.wait_for(last_seq, Duration::from_secs(10)).await {
        tracing::warn!(
            last_seq,
            projected_seq = watermark.current(),
            "nothing is admitted until the projection has caught up; is the worker running?"
        );
    }
    gate.set(OPEN);
    tracing::info!(last_seq, "limits are decided from here on");
    std::future::pending::<()>().await;
}
