//! Units of calls of which nobody knows whether they are in the log.

use std::mem;
use std::time::Duration;

use ledger::limit::Used;
use ledger::{Month, UserId};
use nats::Log;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::limiter::Inner;
use crate::facts::settled_seq;

/// Pause between attempts to ask the log how far it is.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// They count until the projection has passed everything that the log can have taken.
pub(super) struct Unknown {
    units: Mutex<Vec<(UserId, Month, Used)>>,
    added: Notify,
}

impl Unknown {
    pub(super) fn new() -> Self {
        Self { units: Mutex::default(), added: Notify::new() }
    }

    pub(super) fn add(&self, user: UserId, month: Month, cost: Used) {
        self.units.lock().push((user, month, cost));
        self.added.notify_one();
    }
}

/// Gives lost units a position: the last one of the log after their producer has retired.
pub(super) async fn resolve(inner: &Inner, shutdown: CancellationToken) {
    let work = async {
        loop {
            inner.unknown.added.notified().await;
            let lost = mem::take(&mut *inner.unknown.units.lock());
            let last_seq = last_seq_of_retired(&inner.parts.log).await;
            tracing::warn!(
                calls = lost.len(),
                last_seq,
                "calls of unknown fate count until the projection has passed them"
            );
            for (user, month, cost) in lost {
                inner.table.with(user, |entry| entry.tally.settle(month, cost, last_seq));
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// [`settled_seq`], whenever the log answers.
async fn last_seq_of_retired(log: &Log) -> u64 {
    loop {
        match settled_seq(log).await {
            Ok(seq) => return seq,
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the log does not say how far it is"
                );
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// The last sequence of the log, whenever it answers.
pub(super) async fn last_seq(inner: &Inner) -> u64 {
    loop {
        match inner.parts.log.state().await {
            Ok(state) => return state.last_seq,
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the log does not say how far it is"
                );
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}
