//! Erased users: what the log says of them is made true in `public` and in the rows of their calls.
//!
//! A reconciler: it looks for users whom the log calls erased and who still have an account, data keys or personal
//! fields, and finishes. The api does the same right after the event, so this is for an api that died in between, for a
//! database that was restored from a backup with keys in it, and for the rows, which are the worker's alone.

use std::sync::Arc;
use std::time::Duration;

use keys::{Keys, KeysError};
use ledger::{Clock, ExternalId};
use sqlx::{Connection, PgPool};
use store::erasure::{self, Unfinished};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::chain;

/// Users looked at in one go.
const PAGE: u32 = 100;
/// Calls that one transaction blanks: some 50 ms, during which no row of the user can be completed.
const CALLS_AT_ONCE: u32 = 5_000;
/// How often it is looked without a signal.
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
            let pause = match self.finish_all().await {
                // More may be waiting.
                Ok(found) if found >= PAGE as usize => Duration::ZERO,
                Ok(_) => INTERVAL,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "erasures could not be finished; trying again");
                    INTERVAL / 10
                }
            };
            tokio::select! {
                () = self.signal.0.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn finish_all(&self) -> Result<usize, KeysError> {
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        let unfinished = erasure::unfinished(&mut conn, PAGE).await?;
        for user in &unfinished {
            self.finish(&mut conn, user).await?;
        }
        Ok(unfinished.len())
    }

    async fn finish(&self, conn: &mut sqlx::PgConnection, erased: &Unfinished) -> Result<(), KeysError> {
        let hash = match erased.external_id.clone().map(ExternalId::new) {
            Some(Ok(id)) => Some(self.keys.hash_external_id(conn, id).await?.hash),
            // Not one that this program stored; nobody can come with it.
            Some(Err(_)) | None => None,
        };
        let mut tx = conn.begin().await.map_err(store::Error::from)?;
        let data_keys = erasure::bury(&mut tx, erased.user, hash.as_ref(), erased.erased_at).await?;
        tx.commit().await.map_err(store::Error::from)?;
        self.keys.forget(&[erased.user]);
        let mut calls = 0;
        for table in erasure::month_tables(conn).await? {
            loop {
                let done = erasure::blank_month(conn, &table, erased.user, CALLS_AT_ONCE).await?;
                calls += done;
                if done < u64::from(CALLS_AT_ONCE) {
                    break;
                }
            }
        }
        erasure::finish(conn, erased.user, self.clock.now()).await?;
        tracing::info!(user_id = %erased.user, data_keys, calls, "a user was erased");
        Ok(())
    }
}
