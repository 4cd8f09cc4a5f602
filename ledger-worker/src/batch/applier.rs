//! The one way into a projection, for projector and rebuild: a batch and the checkpoint's move in one transaction.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use events::REQUESTS_KEPT;
use ledger::Month;
use sqlx::{Connection, PgConnection, Postgres, Transaction};
use store::Schema;
use store::projection::checkpoint::{self, Checkpoint};
use store::projection::claims::Generations;
use store::projection::hours;
use store::projection::partitions::{self, Partition};
use store::projection::{producers, requests};

use crate::error::chain;

use super::apply::{Applied, ApplyError, apply_all};
use super::heavy::{Heavy, by_day};
use super::ready::Batch;
use super::stage::{Outlook, Staged};

/// Time of the log after which forgotten requests are deleted: not with every batch, since each time PostgreSQL walks
/// over those that it has deleted and not yet cleared away.
const FORGETTING_INTERVAL: TimeDelta = TimeDelta::seconds(10);
/// Most requests that are deleted at a time: 10,000 a second are kept up with.
const FORGOTTEN_AT_ONCE: usize = 100_000;

/// Applies batches from a checkpoint on, whichever schema the connection sees.
#[derive(Debug)]
pub struct Applier {
    schema: Schema,
    partition: i16,
    checkpoint: Checkpoint,
    /// The last two months, if they have a partition.
    attached: BTreeSet<Month>,
    /// Calls by user and day, since this began.
    heavy: Heavy,
}

impl Applier {
    /// Goes on after `checkpoint`, as it is stored in `schema`.
    pub fn new(schema: Schema, partition: i16, checkpoint: Checkpoint) -> Self {
        Self { schema, partition, checkpoint, attached: BTreeSet::new(), heavy: Heavy::default() }
    }

    /// The checkpoint after the last batch.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Applies the batch, all or nothing, and moves the checkpoint with it.
    ///
    /// # Errors
    /// After any error nothing is applied, or, if the connection broke during the commit, all of it: the stored
    /// checkpoint tells.
    pub async fn apply(&mut self, conn: &mut PgConnection, batch: &mut Batch) -> Result<Applied, ApplyError> {
        self.ensure_partitions(conn, batch).await?;
        match self.transaction(conn, batch, false).await {
            Err(ApplyError::Store(error)) if error.is_refused() => {
                tracing::warn!(
                    last_seq = batch.last_seq,
                    error = chain(&error),
                    "the database refused a value; looking for the event"
                );
                self.transaction(conn, batch, true).await
            }
            other => other,
        }
    }

    async fn ensure_partitions(
        &mut self,
        conn: &mut PgConnection,
        batch: &mut Batch,
    ) -> Result<(), store::Error> {
        let missing: Vec<Month> = batch.months.difference(&self.attached).copied().collect();
        for month in missing {
            match partitions::ensure(conn, month).await? {
                Partition::Attached => {
                    self.attached.insert(month);
                }
                Partition::Detached => {
                    batch.parsed.bury_month(month);
                    batch.prepare();
                }
            }
        }
        self.forget_old_months();
        Ok(())
    }

    /// Old months get detached while we run: those are looked up for every batch.
    fn forget_old_months(&mut self) {
        if let Some(newest) = self.attached.last() {
            let recent = newest.prev();
            self.attached.retain(|month| *month >= recent);
        }
    }

    async fn transaction(
        &mut self,
        conn: &mut PgConnection,
        batch: &Batch,
        one_by_one: bool,
    ) -> Result<Applied, ApplyError> {
        let mut tx = conn.begin().await.map_err(store::Error::from)?;
        let stored = self.lock(&mut tx).await?;
        let mut claims = stored.claims;
        let applied =
            apply_all(&mut tx, self.schema, &batch.parsed, &batch.segments, &mut claims, one_by_one).await?;
        self.commit(tx, batch, &stored, claims, &applied).await?;
        Ok(applied)
    }

    /// What a batch may go by that is written ahead of its turn. It holds until a generation of claims ends.
    pub(super) fn outlook(&self) -> Outlook {
        Outlook { generations: self.checkpoint.claims, attached: self.attached.clone() }
    }

    /// Applies the rest of a batch whose rows were written ahead in this transaction, and moves the checkpoint with it,
    /// all or nothing.
    pub(super) async fn finish(
        &mut self,
        mut tx: Transaction<'_, Postgres>,
        batch: &Batch,
        staged: Staged,
    ) -> Result<Applied, ApplyError> {
        let stored = self.lock(&mut tx).await?;
        let mut claims = stored.claims;
        // The batch before may have claimed the generation's first.
        claims.since = claims.since.or(staged.since);
        let mut applied = staged.settle(&mut tx, self.schema, batch, &mut claims).await?;
        applied.is_ahead = true;
        self.commit(tx, batch, &stored, claims, &applied).await?;
        self.attached.extend(&batch.months);
        self.forget_old_months();
        Ok(applied)
    }

    /// Locks the checkpoint, which nobody else has moved.
    async fn lock(&self, conn: &mut PgConnection) -> Result<Checkpoint, store::Error> {
        let stored = checkpoint::lock(conn, self.partition).await?;
        let (partition, expected_seq) = (self.partition, self.checkpoint.seq);
        if stored.seq == expected_seq {
            Ok(stored)
        } else {
            Err(store::Error::CheckpointMoved { partition, expected_seq })
        }
    }

    async fn commit(
        &mut self,
        mut tx: Transaction<'_, Postgres>,
        batch: &Batch,
        stored: &Checkpoint,
        claims: Generations,
        applied: &Applied,
    ) -> Result<(), store::Error> {
        if !batch.producers.is_empty() {
            producers::set(&mut tx, &batch.producers).await?;
        }
        let new = Checkpoint {
            seq: batch.last_seq,
            frame_id: batch.frame_id.clone(),
            frame_time: batch.frame_time.or(stored.frame_time),
            stream_created: self.checkpoint.stream_created,
            events: stored.events + batch.parsed.events(),
            claims,
        };
        if let (Some(before), Some(now)) = (stored.frame_time, new.frame_time) {
            forget_requests(&mut tx, before, now).await?;
        }
        // Behind the checkpoint's lock, which whoever compacts hours takes as well.
        hours::forget(&mut tx, self.partition, &applied.hours).await?;
        let days = by_day(&applied.hours);
        let risen = self.heavy.risen(&days);
        if !risen.is_empty() {
            hours::note(&mut tx, &risen).await?;
        }
        checkpoint::advance(&mut tx, self.schema, self.partition, stored.seq, &new).await?;
        tx.commit().await?;
        self.checkpoint = new;
        self.heavy.add(&days);
        Ok(())
    }
}

/// Deletes requests that nobody asks for any more, when the log's time has come to another stretch of
/// [`FORGETTING_INTERVAL`]. What counts does not depend on it: those that are still there are passed over all the same.
async fn forget_requests(
    conn: &mut PgConnection,
    before: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), store::Error> {
    let stretch = |at: DateTime<Utc>| at.timestamp().div_euclid(FORGETTING_INTERVAL.num_seconds());
    if stretch(before) == stretch(now) {
        return Ok(());
    }
    requests::forget(conn, now - REQUESTS_KEPT, FORGOTTEN_AT_ONCE).await
}
