//! Whether this process may decide: it holds the lock against a second one, and the projection has everything that
//! another process, or this one before a restart, has admitted.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use store::Schema;
use store::advisory::{self, Lock};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::Unready;
use super::fates;
use super::limiter::Inner;

/// How long a starting api waits for another one to end.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Pause between two attempts to take the lock.
const LOCK_RETRY: Duration = Duration::from_millis(200);
/// How often the session that holds the lock is tried; the longest time for which a lost lock goes unnoticed is this
/// and the time-out.
const HEARTBEAT: Duration = Duration::from_millis(250);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the api does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another api holds the lock.
    #[error(
        "another api process serves this database: until limits are leased, one api decides them; stop the other one \
         (waited {} s)", LOCK_WAIT.as_secs()
    )]
    SecondApi,
    /// The lock cannot be asked for.
    #[error("the lock against a second api cannot be taken in the database of DATABASE_URL")]
    Database(#[source] store::Error),
}

/// The session that holds the lock.
pub(super) struct ApiLock {
    conn: PgConnection,
}

impl ApiLock {
    /// Waits ten seconds at most.
    pub(super) async fn acquire(database_url: &str) -> Result<Self, StartError> {
        let started = Instant::now();
        loop {
            match Self::try_acquire(database_url).await {
                Ok(Some(lock)) => return Ok(lock),
                outcome if started.elapsed() < LOCK_WAIT => {
                    if let Err(error) = outcome {
                        tracing::warn!(error = &error as &dyn std::error::Error, "waiting for the database");
                    }
                    sleep(LOCK_RETRY).await;
                }
                Ok(None) => return Err(StartError::SecondApi),
                Err(error) => return Err(StartError::Database(error)),
            }
        }
    }

    async fn try_acquire(database_url: &str) -> Result<Option<Self>, store::Error> {
        let mut conn = store::connect(database_url, Schema::Live).await?;
        if advisory::try_lock(&mut conn, Lock::Api).await? {
            return Ok(Some(Self { conn }));
        }
        // Whether the goodbye arrives does not matter: the session holds nothing.
        let _ = conn.close().await;
        Ok(None)
    }

    async fn is_held(&mut self) -> bool {
        matches!(timeout(HEARTBEAT_TIMEOUT, self.conn.ping()).await, Ok(Ok(())))
    }

    /// Lets another process have it.
    pub(super) async fn release(self) {
        // A session whose goodbye does not arrive ends with its connection.
        let _ = timeout(HEARTBEAT_TIMEOUT, self.conn.close()).await;
    }
}

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
                () = lost(&mut lock) => {
                    inner.gate.set(NO_DATABASE);
                    tracing::error!("the database is away: nothing is admitted until it is back");
                    lock = regain(inner).await;
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
    let last_seq = fates::last_seq(inner).await;
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

/// Ends when the session is gone.
async fn lost(lock: &mut ApiLock) {
    while lock.is_held().await {
        sleep(HEARTBEAT).await;
    }
}

async fn regain(inner: &Inner) -> ApiLock {
    let mut is_taken = false;
    loop {
        match ApiLock::try_acquire(&inner.parts.database_url).await {
            Ok(Some(lock)) => return lock,
            Ok(None) if !is_taken => {
                is_taken = true;
                tracing::error!("another api process has taken over this database: nothing is admitted here");
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the database is still away");
            }
        }
        sleep(LOCK_RETRY).await;
    }
}
