//! Erased users: what the log says of them is made true in `public` and in the rows of their calls.
//!
//! A reconciler: it looks for users whom the log calls erased and who still have an account, data keys or personal
//! fields, and finishes. The api does the same right after the event, so this is for an api that died in between, for a
//! database that was restored from a backup with keys in it, and for the rows, which are the worker's alone.

use std::sync::Arc;
use std::time::Duration;

use data_keys::{Keys, KeysError};
use ledger::Clock;
use sqlx::{PgConnection, PgPool};
use store::identity::erasure::{self, Unfinished};
use store::projection::personal_tables;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::chain;

/// Users looked at in one go.
const PAGE: u32 = 100;
/// Rows that one transaction blanks: some 50 ms, during which no call of the user can be completed.
const ROWS_AT_ONCE: u32 = 5_000;
/// Time between two looks without a signal.
const INTERVAL: Duration = Duration::from_secs(30);

/// Makes the reconciler look at once. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signal(Arc<Notify>);

impl Signal {
    pub(crate) fn look(&self) {
        self.0.notify_one();
    }
}

/// Finishes erasures.
pub(crate) struct Erasures {
    pub(crate) pool: PgPool,
    pub(crate) keys: Keys,
    pub(crate) clock: Clock,
    pub(crate) signal: Signal,
}

impl Erasures {
    /// Looks at the start, at a signal and every now and then, until the worker ends. Every worker does; twice is once.
    pub(crate) async fn run(&self, shutdown: &CancellationToken) {
        loop {
            if let Err(error) = self.finish_all(shutdown).await {
                tracing::warn!(error = chain(&error), "erasures could not be looked for; trying again");
            }
            tokio::select! {
                () = self.signal.0.notified() => {}
                () = tokio::time::sleep(INTERVAL) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Finishes all that can be finished. One that cannot does not keep the others waiting.
    async fn finish_all(&self, shutdown: &CancellationToken) -> Result<(), store::Error> {
        let mut conn = self.pool.acquire().await?;
        let mut after = None;
        while !shutdown.is_cancelled() {
            let page = erasure::unfinished(&mut conn, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.user);
            for erased in page {
                if let Err(error) = self.finish(&mut conn, erased, shutdown).await {
                    tracing::warn!(
                        user_id = %erased.user, error = chain(&error),
                        "an erasure could not be finished; trying again"
                    );
                }
            }
        }
        Ok(())
    }

    async fn finish(
        &self,
        conn: &mut PgConnection,
        erased: Unfinished,
        shutdown: &CancellationToken,
    ) -> Result<(), KeysError> {
        let data_keys = self.keys.bury(conn, erased.user, erased.erased_at).await?;
        let mut rows = 0;
        for table in personal_tables::all(conn).await? {
            loop {
                if shutdown.is_cancelled() {
                    return Ok(());
                }
                let done = table.blank(conn, erased.user, ROWS_AT_ONCE).await?;
                rows += done;
                if done < u64::from(ROWS_AT_ONCE) {
                    break;
                }
            }
        }
        erasure::finish(conn, erased.user, self.clock.now()).await?;
        tracing::info!(user_id = %erased.user, data_keys, rows, "a user was erased");
        Ok(())
    }
}
