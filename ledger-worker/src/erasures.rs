//! Erased users: what the log says of them is made true in `public` and in the rows of their calls.
//!
//! A reconciler: it looks at the erasures that the projection has as open, and finishes those of users who still have
//! an account, data keys or personal fields. The api does the same right after the event, so this is for an api that
//! died in between, and for the rows, which are the worker's alone. At its start, and every day, it also looks through
//! all erased users, page by page, for what a database that was restored from a backup has brought back.

use std::sync::Arc;
use std::time::Duration;

use data_keys::{Keys, KeysError};
use ledger::Clock;
use sqlx::{Connection, PgConnection, PgPool};
use store::identity::erasure::{self, OpenErasure};
use store::projection::checkpoint::{self, PARTITION};
use store::projection::personal_tables;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::step::step;

/// Users looked at in one go.
const PAGE: u32 = 100;
/// Erased users that one statement looks through for what is not erased any more: some 10 ms.
const ALL_PAGE: u32 = 1_000;
/// Time between two looks through all erased users.
const ALL_INTERVAL: Duration = Duration::from_hours(24);
/// Rows that one transaction looks at and blanks: some 50 ms, during which no call of the user can be completed.
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
        let mut all_due = Instant::now();
        loop {
            if Instant::now() >= all_due {
                match self.reopen_all(shutdown).await {
                    Ok(()) => all_due = Instant::now() + ALL_INTERVAL,
                    Err(error) => tracing::warn!(
                        error = chain(&error),
                        "erased users could not be looked through; trying again"
                    ),
                }
            }
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

    /// Opens erasures again of which something came back.
    async fn reopen_all(&self, shutdown: &CancellationToken) -> Result<(), store::Error> {
        let mut conn = self.pool.acquire().await?;
        let (mut after, mut opened) = (None, 0);
        while !shutdown.is_cancelled() {
            let page = step("opening erasures again", erasure::reopen(&mut conn, after, ALL_PAGE)).await?;
            opened += page.opened;
            if page.last.is_none() {
                break;
            }
            after = page.last;
        }
        if opened > 0 {
            // A batch that did not know it yet is waited for: whatever it puts into rows is there to be blanked.
            step("waiting for a batch", async {
                let mut tx = conn.begin().await?;
                checkpoint::lock(&mut tx, PARTITION).await?;
                Ok::<_, store::Error>(tx.rollback().await?)
            })
            .await?;
        }
        Ok(())
    }

    /// Finishes all that can be finished. One that cannot does not keep the others waiting.
    async fn finish_all(&self, shutdown: &CancellationToken) -> Result<(), store::Error> {
        let mut conn = self.pool.acquire().await?;
        let mut after = None;
        while !shutdown.is_cancelled() {
            let page = step("looking for erasures", erasure::open(&mut conn, after, PAGE)).await?;
            let Some(last) = page.last() else {
                return step("closing erasures", erasure::close_finished(&mut conn)).await;
            };
            after = Some(last.user);
            let (finished, unfinished): (Vec<_>, Vec<_>) =
                page.into_iter().partition(|erased| erased.is_finished);
            if !finished.is_empty() {
                let finished: Vec<_> = finished.iter().map(|erased| erased.user).collect();
                step("noting erasures", erasure::note_finished(&mut conn, &finished)).await?;
            }
            for erased in unfinished {
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
        erased: OpenErasure,
        shutdown: &CancellationToken,
    ) -> Result<(), KeysError> {
        let burying = self.keys.bury(conn, erased.user, erased.erased_at);
        let data_keys = step("destroying data keys", burying).await?;
        let mut rows = 0;
        for table in step("listing tables", personal_tables::all(conn)).await? {
            let mut after = None;
            loop {
                if shutdown.is_cancelled() {
                    return Ok(());
                }
                let blanking = table.blank(conn, erased.user, after, ROWS_AT_ONCE);
                let walked = step("blanking rows", blanking).await?;
                rows += walked.rows;
                after = walked.next;
                if after.is_none() {
                    break;
                }
            }
        }
        step("finishing an erasure", async {
            erasure::finish(conn, erased.user, self.clock.now()).await?;
            erasure::note_finished(conn, &[erased.user]).await
        })
        .await?;
        tracing::info!(user_id = %erased.user, data_keys, rows, "a user was erased");
        Ok(())
    }
}
