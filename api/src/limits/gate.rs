//! Gate before all decisions: open while this process holds the lock against a second one, by the lock's lease, and the
//! projection has everything that another process, or this one before a restart, has admitted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use nats::{Lease, Log, Term};
use tokio_util::sync::CancellationToken;

use super::error::Unready;
use super::lock::{ApiLock, Takeover};
use super::log_end;
use super::projected::Projected;
use crate::facts::Watermark;

/// Gate before all decisions, open or closed.
pub(super) struct Gate {
    state: AtomicU8,
    /// The lock's. A process that stood still finds it over before it has noticed anything.
    lease: Lease,
}

const OPEN: u8 = 0;
const CATCHING_UP: u8 = 1;
const NO_DATABASE: u8 = 2;
const ELSEWHERE: u8 = 3;
/// Closed for good.
const STOPPING: u8 = 4;

impl Gate {
    /// Closed until the projection has caught up.
    pub(super) fn new(lease: Lease) -> Self {
        Self { state: AtomicU8::new(CATCHING_UP), lease }
    }

    /// The term in which decisions hold now: what is decided counts only if it is on its way while the term lasts.
    pub(super) fn check(&self) -> Result<Term, Unready> {
        match self.state.load(Ordering::Acquire) {
            OPEN => self.lease.term().ok_or(Unready::Database),
            CATCHING_UP => Err(Unready::CatchingUp),
            ELSEWHERE => Err(Unready::Elsewhere),
            STOPPING => Err(Unready::Stopping),
            _ => Err(Unready::Database),
        }
    }

    /// Whether what was begun in this term may still be decided.
    pub(super) fn check_in(&self, term: &Term) -> Result<(), Unready> {
        if self.is_open() && term.holds() {
            return Ok(());
        }
        // Open in another term: it was closed in between.
        Err(self.check().err().unwrap_or(Unready::CatchingUp))
    }

    fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
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
            let takeover = lock.takeover();
            let is_lost = tokio::select! {
                () = open(&gate, takeover, &counts, &log, &watermark) => false,
                // The sender lives as long as `watermark`.
                _ = rewinds.changed() => false,
                () = lock.lost() => true,
            };
            if gate.is_open() {
                lock.took_over();
            }
            if is_lost {
                gate.set(NO_DATABASE);
                tracing::error!(
                    "the lock's session is gone or silent: nothing is admitted until another one holds it"
                );
                lock.regain(|| gate.set(ELSEWHERE)).await;
                gate.set(CATCHING_UP);
                tracing::info!("the lock is held again");
            } else {
                gate.set(CATCHING_UP);
                counts.forget_readings();
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
    if gate.is_open() {
        lock.took_over();
    }
    gate.set(STOPPING);
    lock
}

/// Opens when the projection has reached what the log holds once nobody else decides. Never ends.
async fn open(gate: &Gate, takeover: Option<Takeover>, counts: &Projected, log: &Log, watermark: &Watermark) {
    if let Some(takeover) = takeover {
        log_end::last_seq(log).await;
        takeover.over().await;
    }
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_gate_that_stands_open_is_closed_when_the_lease_is_over() {
        let lease = Lease::default();
        let gate = Gate::new(lease.clone());
        lease.begin(Instant::now() + Duration::from_mins(1));
        assert_eq!(gate.check().err(), Some(Unready::CatchingUp));
        gate.set(OPEN);
        assert!(gate.check().is_ok());
        // Nobody was here to close it.
        lease.renew(Instant::now());
        assert_eq!(gate.check().err(), Some(Unready::Database));
    }
}
