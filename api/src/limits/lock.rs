//! The lock against a second api, held by a session of its own.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use store::Schema;
use store::operations::session_locks::{self, Lock};
use tokio::time::{sleep, timeout};

/// Longest time that a starting api waits for another one to end.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Pause between two attempts to take the lock.
const LOCK_RETRY: Duration = Duration::from_millis(200);
/// Pause between two looks at the session that holds the lock; the longest time for which a lost lock goes unnoticed is
/// this and the time-out.
const HEARTBEAT: Duration = Duration::from_millis(250);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);

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
    conn: PgConnection,
}

impl ApiLock {
    /// Takes the lock; waits ten seconds for it at most.
    pub(super) async fn acquire(database_url: String) -> Result<Self, StartError> {
        let started = Instant::now();
        loop {
            match try_acquire(&database_url).await {
                Ok(Some(conn)) => return Ok(Self { database_url, conn }),
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

    /// Ends when the session is gone.
    pub(super) async fn lost(&mut self) {
        while self.is_held().await {
            sleep(HEARTBEAT).await;
        }
    }

    /// Takes the lock again after [`ApiLock::lost`], in a new session, however long that takes.
    pub(super) async fn regain(&mut self) {
        let mut is_taken = false;
        loop {
            match try_acquire(&self.database_url).await {
                Ok(Some(conn)) => {
                    self.conn = conn;
                    return;
                }
                Ok(None) if !is_taken => {
                    is_taken = true;
                    tracing::error!(
                        "another api process has taken over this database: nothing is admitted here"
                    );
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the database is still away");
                }
            }
            sleep(LOCK_RETRY).await;
        }
    }

    async fn is_held(&mut self) -> bool {
        matches!(timeout(HEARTBEAT_TIMEOUT, self.conn.ping()).await, Ok(Ok(())))
    }

    /// Lets another process have the lock.
    pub(super) async fn release(self) {
        // A session whose goodbye does not arrive ends with its connection.
        let _ = timeout(HEARTBEAT_TIMEOUT, self.conn.close()).await;
    }
}

/// A session that holds the lock; none when another one holds it.
async fn try_acquire(database_url: &str) -> Result<Option<PgConnection>, store::Error> {
    let mut conn = store::connect(database_url, Schema::Live).await?;
    if session_locks::try_lock(&mut conn, Lock::Api).await? {
        return Ok(Some(conn));
    }
    // Whether the goodbye arrives does not matter: the session holds nothing.
    let _ = conn.close().await;
    Ok(None)
}
