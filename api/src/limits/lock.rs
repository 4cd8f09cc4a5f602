//! The lock against a second api, held by a session of its own, and the lease that it gives.
//!
//! A lock can be lost without a word: its session is ended, or its network is silent, or this very process stands
//! still. So it gives the right to decide for a short time only, counted from before its session was last asked and
//! answered. Another process that finds the lock free while its holder has not handed it back waits until that time is
//! over ([`Takeover`]).

use std::time::{Duration, Instant};

use nats::Lease;
use sqlx::{Connection, PgConnection};
use store::Schema;
use store::operations::lock_holders::{self, Attempt, Predecessor, Vigil};
use store::operations::session_locks::Lock;
use tokio::time::sleep;
use uuid::Uuid;

/// Longest time that a starting api waits for another one to end.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Pause between two attempts to take the lock.
const LOCK_RETRY: Duration = Duration::from_millis(200);
/// Pause between two looks at the session that holds the lock.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Time that the session has to answer; one that does not is given up.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for which one answer of the session gives the right to decide.
const LEASE: Duration = Duration::from_secs(3);
/// Whoever follows on a holder that has not handed the lock back decides so long after that one's last word at the
/// earliest: a second more than its lease, since the two have clocks of their own and the log reads what was sent.
const TAKEOVER: Duration = Duration::from_secs(4);
/// The shortest such wait.
const MIN_TAKEOVER: Duration = Duration::from_secs(1);
/// Time that the database has for an attempt to take the lock.
const LOCK_WITHIN: Duration = Duration::from_secs(5);

/// Reason for which the api does not start.
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
    database_url: String,
    /// This process, among those that hold locks.
    holder: Uuid,
    /// None while the lock is lost.
    conn: Option<PgConnection>,
    lease: Lease,
    takeover: Option<Takeover>,
}

/// The time after a holder that has not handed the lock back: what it decided may still come into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Takeover {
    /// Instant at which its lease is certainly over.
    lease_over: Instant,
}

impl Takeover {
    fn after(predecessor: Predecessor) -> Option<Self> {
        let Predecessor::Lost { age_ms } = predecessor else { return None };
        let left = TAKEOVER.saturating_sub(Duration::from_millis(age_ms));
        Some(Self { lease_over: Instant::now() + left })
    }

    /// Waits until that time is over, counted from when the log is seen to work: one that was suspended may answer
    /// before it has read what others had sent.
    pub(super) async fn over(self) {
        tracing::warn!(
            "the api before did not hand over; limits are decided once it certainly does not decide"
        );
        let at = self.lease_over.max(Instant::now() + MIN_TAKEOVER);
        tokio::time::sleep_until(at.into()).await;
    }
}

impl ApiLock {
    /// Takes the lock for the process `holder`; waits ten seconds for it at most.
    pub(super) async fn acquire(database_url: String, holder: Uuid) -> Result<Self, StartError> {
        let started = Instant::now();
        let lease = Lease::default();
        let mut lock = Self { database_url, holder, conn: None, lease, takeover: None };
        let mut vigil = Vigil::default();
        loop {
            match lock.try_take(&mut vigil).await {
                Ok(true) => return Ok(lock),
                outcome if started.elapsed() < LOCK_WAIT => {
                    if let Err(error) = outcome {
                        tracing::warn!(error = &error as &dyn std::error::Error, "waiting for the database");
                    }
                    sleep(LOCK_RETRY).await;
                }
                Ok(false) => return Err(StartError::SecondApi),
                Err(error) => return Err(StartError::Database(error)),
            }
        }
    }

    /// Holds as long as this process alone decides. It ends by itself, whatever this process does or cannot do.
    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// What is to be waited for before anything is decided, if the holder before has not handed the lock back.
    pub(super) fn takeover(&self) -> Option<Takeover> {
        self.takeover
    }

    /// That was waited for. Until it is, the wait is the same whoever holds the lock: also after this process has lost
    /// it, and for the one after this.
    pub(super) fn took_over(&mut self) {
        self.takeover = None;
    }

    /// Ends when the session is gone or silent. Renews the lease until then.
    pub(super) async fn lost(&mut self) {
        while self.confirm().await {
            sleep(HEARTBEAT).await;
        }
    }

    /// Takes the lock again after [`ApiLock::lost`], in a new session, however long that takes. The old session is
    /// closed first: one that has only stalled still holds the lock. `elsewhere` is told when another process holds it.
    pub(super) async fn regain(&mut self, elsewhere: impl Fn()) {
        self.conn = None;
        let mut is_told = false;
        let mut vigil = Vigil::default();
        loop {
            match self.try_take(&mut vigil).await {
                Ok(true) => return,
                Ok(false) if !is_told && vigil.is_others() => {
                    is_told = true;
                    elsewhere();
                    tracing::error!(
                        "another api process has taken over this database: nothing is admitted here"
                    );
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the database is still away");
                }
            }
            sleep(LOCK_RETRY).await;
        }
    }

    /// One attempt, in a session of its own.
    async fn try_take(&mut self, vigil: &mut Vigil) -> Result<bool, store::Error> {
        let asked = Instant::now();
        let attempt = store::within("asking for the lock against a second api", LOCK_WITHIN, async {
            let mut conn = store::connect(&self.database_url, Schema::Live).await?;
            let attempt = lock_holders::try_take(&mut conn, Lock::Api, self.holder, vigil).await?;
            Ok::<_, store::Error>((conn, attempt))
        });
        match attempt.await? {
            (conn, Attempt::Taken(predecessor)) => {
                self.conn = Some(conn);
                self.takeover = self.takeover.max(Takeover::after(predecessor));
                self.lease.begin(asked + LEASE);
                Ok(true)
            }
            (conn, Attempt::Held) => {
                goodbye(conn).await;
                Ok(false)
            }
        }
    }

    /// Asks the session whether the lock is still its own.
    async fn confirm(&mut self) -> bool {
        let Some(conn) = &mut self.conn else { return false };
        let asked = Instant::now();
        let confirming = lock_holders::confirm(conn, Lock::Api, self.holder);
        match store::within("confirming the lock", HEARTBEAT_TIMEOUT, confirming).await {
            Ok(true) => {
                self.lease.renew(asked + LEASE);
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the lock's session is given up");
                false
            }
        }
    }

    /// Lets another process have the lock: nothing that was decided here is under way any more.
    pub(super) async fn release(self) {
        let Some(mut conn) = self.conn else { return };
        if self.takeover.is_some() {
            // The next one is to wait in our place.
            return goodbye(conn).await;
        }
        let releasing = lock_holders::release(&mut conn, Lock::Api, self.holder);
        if store::within("handing the lock back", HEARTBEAT_TIMEOUT, releasing).await.is_ok() {
            goodbye(conn).await;
        }
    }
}

/// Whether it arrives does not matter: a session whose goodbye does not arrive ends with its connection.
async fn goodbye(conn: PgConnection) {
    let _ = tokio::time::timeout(HEARTBEAT_TIMEOUT, conn.close()).await;
}
