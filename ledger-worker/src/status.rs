//! The worker's word on itself, for readyz.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use store::operations::lock_holders;
use store::operations::projector_status::{self, State};
use store::operations::session_locks::Lock;
use store::projection::checkpoint::PARTITION;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Time between two heartbeats, by which the worker says that it is still there. A standby ends the session of one that
/// has said nothing for five seconds ([`lock_holders::SILENT_AFTER`]).
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The pause after one that was not written: when the database is back a standby must not mistake this worker for one
/// that is gone.
const RETRY: Duration = Duration::from_millis(250);
/// Time that the database has for a heartbeat.
const WRITE_WITHIN: Duration = Duration::from_secs(2);

/// The worker's state, as it is now. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    state: watch::Sender<(State, Option<String>)>,
    seq: Arc<AtomicU64>,
    /// Whether everything that was in the log when reading began is projected.
    caught_up: watch::Sender<bool>,
}

impl Status {
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new((State::Standby, None)),
            seq: Arc::default(),
            caught_up: watch::Sender::new(false),
        }
    }

    pub(crate) fn set(&self, state: State, reason: Option<String>) {
        if state != State::Running {
            self.caught_up.send_replace(false);
        }
        metrics::gauge!("ledger_projector_stopped").set(f64::from(u8::from(state == State::Stopped)));
        let new = (state, reason);
        let changed = self.state.send_if_modified(|old| {
            let changed = *old != new;
            if changed {
                old.clone_from(&new);
            }
            changed
        });
        if changed {
            announce(new.0, new.1.as_deref());
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().0
    }

    pub(crate) fn projected(&self, seq: u64) {
        self.seq.store(seq, Ordering::Release);
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    pub(crate) fn set_caught_up(&self) {
        self.caught_up.send_if_modified(|caught_up| !std::mem::replace(caught_up, true));
    }

    pub(crate) fn caught_up(&self) -> watch::Receiver<bool> {
        self.caught_up.subscribe()
    }

    /// Writes the state down on every change and every second. While the database is away nothing is written: the old
    /// heartbeat says it.
    pub(crate) async fn report(&self, pool: &PgPool, instance: Uuid, shutdown: &CancellationToken) {
        let mut changes = self.state.subscribe();
        loop {
            let (state, reason) = changes.borrow_and_update().clone();
            let writing = self.write(pool, instance, state, reason.as_deref());
            let mut pause = HEARTBEAT;
            if let Err(error) = store::within("a heartbeat", WRITE_WITHIN, writing).await {
                tracing::debug!(error = crate::error::chain(&error), "the worker's status was not written");
                pause = RETRY;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => break,
            }
        }
        let forgetting =
            async { projector_status::forget(&mut *pool.acquire().await?, PARTITION, instance).await };
        if let Err(error) = store::within("a last word", WRITE_WITHIN, forgetting).await {
            tracing::debug!(error = crate::error::chain(&error), "the worker's status was not removed");
        }
    }

    async fn write(
        &self,
        pool: &PgPool,
        instance: Uuid,
        state: State,
        reason: Option<&str>,
    ) -> Result<(), store::Error> {
        let mut conn = pool.acquire().await?;
        // First: this is what a standby goes by.
        lock_holders::beat(&mut conn, Lock::Projector(PARTITION), instance).await?;
        projector_status::set(&mut conn, PARTITION, instance, state, reason, self.seq()).await?;
        let dead = store::projection::dead_letters::count(&mut conn).await?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; nobody has 2^53 dead letters")]
        metrics::gauge!("ledger_dead_letters").set(dead as f64);
        Ok(())
    }
}

fn announce(state: State, reason: Option<&str>) {
    match (state, reason) {
        (State::Stopped, reason) => tracing::error!(
            reason,
            "the projector stopped: the log is not whole; see `usage-ledger log status`"
        ),
        (State::Retrying, reason) => tracing::warn!(reason, "the projector cannot go on now and tries again"),
        (State::Running, _) => tracing::info!("the projector runs"),
        (State::Standby, _) => tracing::info!("another worker projects; this one waits to take over"),
    }
}
