//! Fates of admitted calls: in the log, certainly not, or unknown.

use std::mem;
use std::sync::Arc;

use ledger::{Month, UserId};
use nats::Log;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ask::Cost;
use super::log_end;
use super::projected::Projected;

/// Settles the units of admitted calls.
pub(super) struct Fates {
    counts: Arc<Projected>,
    /// Units of calls of which nobody knows whether they are in the log. They count until the projection has passed
    /// everything that the log can have taken.
    unknown: Mutex<Vec<(UserId, Month, Cost)>>,
    added: Notify,
}

impl Fates {
    pub(super) fn new(counts: Arc<Projected>) -> Self {
        Self { counts, unknown: Mutex::default(), added: Notify::new() }
    }

    /// Settles a call that is in the log at this sequence.
    pub(super) fn settle(&self, user: UserId, month: Month, cost: Cost, seq: u64) {
        self.counts.settle(user, month, cost, seq);
    }

    /// Gives back the units of a call that is certainly not in the log.
    pub(super) fn release(&self, user: UserId, month: Month, cost: Cost) {
        self.counts.release(user, month, cost);
    }

    /// Keeps the units of a call of which nobody knows whether it is in the log, until that no longer matters.
    pub(super) fn lose(&self, user: UserId, month: Month, cost: Cost) {
        self.unknown.lock().push((user, month, cost));
        self.added.notify_one();
    }

    /// Gives lost units a position, until `shutdown`: the last one of the log after their producer has retired.
    pub(super) async fn resolve(self: Arc<Self>, log: Log, shutdown: CancellationToken) {
        let work = async {
            loop {
                self.added.notified().await;
                let lost = mem::take(&mut *self.unknown.lock());
                let last_seq = log_end::settled_seq(&log).await;
                tracing::warn!(
                    calls = lost.len(),
                    last_seq,
                    "calls of unknown fate count until the projection has passed them"
                );
                for (user, month, cost) in lost {
                    self.settle(user, month, cost, last_seq);
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
    }
}
