//! Locks that others stand in line for: asked for a moment at a time, so that whoever reads is not kept waiting behind
//! one who reads for long.

use std::time::{Duration, Instant};

use crate::Error;

/// Time that a statement waits for a lock that readers conflict with. Below PostgreSQL's `deadlock_timeout` of a
/// second, so that no reader is ever the victim.
pub(crate) const LOCK_WAIT_MS: u32 = 300;
/// The pause before it is asked for again, in which those get on that waited behind it.
const PAUSE: Duration = Duration::from_millis(200);
/// Time for which it is tried in all.
const WITHIN: Duration = Duration::from_secs(30);

/// SQLSTATE of a lock that did not come within `lock_timeout`.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Whether the lock did not come in time.
pub(crate) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE))
}

/// Counts the time for which a lock is tried.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Instant,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { until: Instant::now() + WITHIN }
    }

    /// Waits a little, if the lock may be tried again after this error.
    ///
    /// # Errors
    /// The error itself if it is another one, and [`Error::Locked`] when the time is over.
    pub(crate) async fn again(&mut self, error: sqlx::Error) -> Result<(), Error> {
        if !is_lock_timeout(&error) {
            return Err(error.into());
        }
        if Instant::now() > self.until {
            return Err(Error::Locked { within: WITHIN, source: error });
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}
