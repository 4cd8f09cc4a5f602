//! Filling `ledger_next` with the code that the projector runs.

use sqlx::PgConnection;
use store::checkpoint::{self, Checkpoint, PARTITION};
use store::{Schema, next_schema};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::projector::Applier;
use crate::reading::{Batch, continuity};
use crate::standing::Standing;

use super::ahead::{Ahead, Chunk};
use super::{BATCH_EVENTS, Progress, Rebuild, RebuildError};

/// The next projection in the making.
pub(super) struct Fill<'a> {
    rebuild: &'a Rebuild<'a>,
    conn: PgConnection,
    applier: Applier,
    events: u64,
}

impl<'a> Fill<'a> {
    /// Goes on with what an earlier run left, if it still fits the tables and the log, and begins anew otherwise.
    pub(super) async fn open(
        rebuild: &'a Rebuild<'a>,
        live: &mut PgConnection,
    ) -> Result<Self, RebuildError> {
        let made_for = next_schema::version(live).await?;
        if made_for.is_some() && made_for != Some(next_schema::tables_version(live).await?) {
            next_schema::drop_next(live).await?;
        }
        let left = match made_for {
            Some(_) => Self::resume(rebuild, live).await?,
            None => None,
        };
        if let Some(fill) = left {
            (rebuild.progress)(Progress::Resumed(fill.seq()));
            return Ok(fill);
        }
        next_schema::drop_next(live).await?;
        next_schema::create(live).await?;
        Self::at(rebuild, Checkpoint::default()).await
    }

    async fn resume(rebuild: &'a Rebuild<'a>, live: &mut PgConnection) -> Result<Option<Self>, RebuildError> {
        if next_schema::version(live).await?.is_none() {
            return Ok(None);
        }
        let mut conn = store::connect(rebuild.database_url, Schema::Next).await?;
        let stored = checkpoint::read(&mut conn, PARTITION).await?;
        let state = rebuild.log.state().await?;
        let standing = Standing::of::<RebuildError>(&mut conn, rebuild.log, &stored, &state).await?;
        let fits = standing == Standing::Same && stored.seq <= checkpoint::read(live, PARTITION).await?.seq;
        if !fits {
            tracing::warn!(
                seq = stored.seq,
                "the log is another one than an earlier rebuild read; beginning anew"
            );
            return Ok(None);
        }
        Self::at(rebuild, stored).await.map(Some)
    }

    async fn at(rebuild: &'a Rebuild<'a>, stored: Checkpoint) -> Result<Self, RebuildError> {
        let conn = store::connect::connect_projector(rebuild.database_url, Schema::Next).await?;
        let stream_created = Some(rebuild.log.state().await?.created);
        let applier = Applier::new(Schema::Next, PARTITION, Checkpoint { stream_created, ..stored });
        Ok(Self { rebuild, conn, applier, events: 0 })
    }

    /// How far it is.
    pub(super) fn seq(&self) -> u64 {
        self.applier.checkpoint().seq
    }

    /// Events that this run applied.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// Fills up to this sequence: the next batch is parsed while one is applied.
    pub(super) async fn up_to(&mut self, target: u64) -> Result<(), RebuildError> {
        if self.seq() >= target {
            return Ok(());
        }
        let seq = self.seq();
        let continuity = continuity(&mut self.conn, self.rebuild.log, seq).await?;
        let ahead = Ahead::new(self.rebuild.log, continuity, target, BATCH_EVENTS);
        let (to, mut from) = mpsc::channel(1);
        // Dropping the set ends the reader, however this function is left.
        let mut reader = JoinSet::new();
        reader.spawn(prepare(ahead, to));
        while let Some(batch) = from.recv().await {
            let mut batch: Box<Batch> = batch?;
            self.applier.apply(&mut self.conn, &mut batch).await?;
            self.events += batch.parsed.events();
            let (seq, events) = (self.seq(), self.events);
            (self.rebuild.progress)(Progress::At { seq, target, events });
        }
        Ok(())
    }

    /// Gives it the live tables' partitions.
    pub(super) async fn align(&mut self) -> Result<(), RebuildError> {
        Ok(next_schema::align_partitions(&mut self.conn).await?)
    }
}

async fn prepare(mut ahead: Ahead, to: mpsc::Sender<Result<Box<Batch>, RebuildError>>) {
    loop {
        // The place is taken first, so that no more than one batch waits beside the one that is applied.
        let Ok(permit) = to.reserve().await else { return };
        match ahead.next().await {
            Ok(None) => return,
            Ok(Some(chunk)) => match tokio::task::spawn_blocking(move || batch(&chunk)).await {
                Ok(batch) => permit.send(Ok(Box::new(batch))),
                // Only at shutdown, or if parsing panicked: then it is to be seen, not passed over.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            Err(error) => {
                permit.send(Err(error));
                return;
            }
        }
    }
}

fn batch(chunk: &Chunk) -> Batch {
    match &chunk.last {
        Some(last) => Batch::of(&chunk.frames, last),
        None => Batch::gap(chunk.last_seq),
    }
}
