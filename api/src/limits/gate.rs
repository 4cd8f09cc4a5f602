//! Whether this process may decide: it holds the lock against a second one, and the projection has everything that
//! another process, or this one before a restart, has admitted.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::Unready;
use super::limiter::Inner;
use super::lock::ApiLock;
use super::log_end;

/// Open or closed.
pub(super) struct Gate {
    state: AtomicU8,
    /// Readings at an earlier watermark may miss what was admitted elsewhere.
    floor: AtomicU64,
}

const OPEN: u8 = 0;
const CATCHING_UP: u8 = 1;
const NO_DATABASE: u8 = 2;
/// For good.
const STOPPING: u8 = 3;

impl Gate {
    /// Closed until the projection has caught up.
    pub(super) fn new() -> Self {
        Self { state: AtomicU8::new(CATCHING_UP), floor: AtomicU64::new(u64::MAX) }
    }

    pub(super) fn check(&self) -> Result<(), Unready> {
        match self.state.load(Ordering::Acquire) {
            OPEN => Ok(()),
            CATCHING_UP => Err(Unready::CatchingUp),
            STOPPING => Err(Unready::Stopping),
            _ => Err(Unready::Database),
        }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor.load(Ordering::Acquire)
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Release);
    }
}

/// Opens and closes the gate until `shutdown`, which closes it for good; hands the lock back. It is to be held until the
/// last admitted call is in the log, or else the next process does not count that call when it begins. When the session is lost another api may have taken the
/// lock and admitted calls, so everything begins anew once the lock is held again. When the projections were rewound
/// the positions that were read are used anew, so everything begins anew as well.
pub(super) async fn keep(inner: &Inner, mut lock: ApiLock, shutdown: CancellationToken) -> ApiLock {
    let mut rewinds = inner.parts.watermark.rewinds();
    let work = async {
        loop {
            tokio::select! {
                () = open(inner) => {}
                // The sender lives as long as `inner`.
                _ = rewinds.changed() => {
                    inner.gate.set(CATCHING_UP);
                    inner.table.forget_readings();
                }
                () = lock.lost() => {
                    inner.gate.set(NO_DATABASE);
                    tracing::error!("the database is away: nothing is admitted until it is back");
                    lock.regain().await;
                    inner.gate.set(CATCHING_UP);
                    tracing::info!("the database is back");
                }
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
    inner.gate.set(STOPPING);
    lock
}

/// Opens when the projection has reached what the log holds now. Never ends.
async fn open(inner: &Inner) {
    let last_seq = log_end::last_seq(&inner.parts.log).await;
    inner.gate.floor.store(last_seq, Ordering::Release);
    let watermark = &inner.parts.watermark;
    while !watermark.wait_for(last_seq, Duration::from_secs(10)).await {
        tracing::warn!(
            last_seq,
            projected_seq = watermark.current(),
            "nothing is admitted until the projection has caught up; is the worker running?"
        );
    }
    inner.gate.set(OPEN);
    tracing::info!(last_seq, "limits are decided from here on");
    std::future::pending::<()>().await;
}
