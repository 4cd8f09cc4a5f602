//! Filling `ledger_next` with the code that the projector runs.

use data_keys::Keys;
use sqlx::{PgConnection, PgPool};
use store::Schema;
use store::operations::next_schema;
use store::projection::checkpoint::{self, Checkpoint, PARTITION};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::batch::{Applier, Batch};
use crate::job::{Progress, Rebuild};
use crate::log::{Ahead, Chunk, LogCheck, continuity};

use super::error::RebuildError;

/// One for the data keys that are not remembered, one to hear of those that are destroyed.
const POOL_CONNECTIONS: u32 = 2;

/// The next projection in the making.
pub(super) struct Fill<'a> {
    rebuild: &'a Rebuild<'a>,
    keys: &'a Keys,
    /// Connections for the data keys that are not remembered.
    pool: PgPool,
    conn: PgConnection,
    applier: Applier,
    events: u64,
    /// Hears of data keys that are destroyed meanwhile; ends with this.
    _follower: JoinSet<()>,
}

impl<'a> Fill<'a> {
    /// Goes on with what an earlier run left, if it still fits the tables and the log, and begins anew otherwise.
    pub(super) async fn open(
        rebuild: &'a Rebuild<'a>,
        keys: &'a Keys,
        live: &mut PgConnection,
    ) -> Result<Self, RebuildError> {
        let made_for = next_schema::version(live).await?;
        if made_for.is_some() && made_for != Some(next_schema::tables_version(live).await?) {
            next_schema::drop_next(live).await?;
        }
        let left = match made_for {
            Some(_) => Self::resume(rebuild, keys, live).await?,
            None => None,
        };
        if let Some(fill) = left {
            (rebuild.progress)(Progress::Resumed(fill.seq()));
            return Ok(fill);
        }
        next_schema::drop_next(live).await?;
        next_schema::create(live).await?;
        Self::at(rebuild, keys, Checkpoint::default()).await
    }

    async fn resume(
        rebuild: &'a Rebuild<'a>,
        keys: &'a Keys,
        live: &mut PgConnection,
    ) -> Result<Option<Self>, RebuildError> {
        if next_schema::version(live).await?.is_none() {
            return Ok(None);
        }
        let mut conn = store::connect(rebuild.database_url, Schema::Next).await?;
        let stored = checkpoint::read(&mut conn, PARTITION).await?;
        let state = rebuild.log.state().await?;
        let check = LogCheck::of::<RebuildError>(&mut conn, rebuild.log, &stored, &state).await?;
        let fits = check == LogCheck::Same && stored.seq <= checkpoint::read(live, PARTITION).await?.seq;
        if !fits {
            tracing::warn!(
                seq = stored.seq,
                "the log is another one than an earlier rebuild read; beginning anew"
            );
            return Ok(None);
        }
        Self::at(rebuild, keys, stored).await.map(Some)
    }

    async fn at(rebuild: &'a Rebuild<'a>, keys: &'a Keys, stored: Checkpoint) -> Result<Self, RebuildError> {
        let pool = store::pool(rebuild.database_url, POOL_CONNECTIONS)?;
        let mut follower = JoinSet::new();
        follower.spawn({
            let (keys, pool) = (keys.clone(), pool.clone());
            async move { keys.follow(&pool, &CancellationToken::new()).await }
        });
        let conn = store::connect::connect_projector(rebuild.database_url, Schema::Next).await?;
        let stream_created = Some(rebuild.log.state().await?.created);
        let applier = Applier::new(Schema::Next, PARTITION, Checkpoint { stream_created, ..stored });
        Ok(Self { rebuild, keys, pool, conn, applier, events: 0, _follower: follower })
    }

    /// The last sequence that it holds.
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
        let ahead = Ahead::new(self.rebuild.log, continuity, target);
        let (to, mut from) = mpsc::channel(1);
        // Dropping the set ends the reader, however this function is left.
        let mut reader = JoinSet::new();
        reader.spawn(prepare(ahead, self.keys.clone(), self.pool.clone(), to));
        while let Some(batch) = from.recv().await {
            let mut batch: Box<Batch> = batch?;
            self.applier.apply(&mut self.conn, &mut batch).await?;
            self.events += batch.parsed.events();
            let (seq, events) = (self.seq(), self.events);
            (self.rebuild.progress)(Progress::At { seq, target, events });
        }
        Ok(())
    }

    /// Gives it the live tables' partitions, and what else of them does not follow from the log.
    pub(super) async fn align(&mut self) -> Result<(), RebuildError> {
        next_schema::align_partitions(&mut self.conn).await?;
        Ok(next_schema::take_over_retried(&mut self.conn).await?)
    }
}

async fn prepare(
    mut ahead: Ahead,
    keys: Keys,
    pool: PgPool,
    to: mpsc::Sender<Result<Box<Batch>, RebuildError>>,
) {
    loop {
        // The place is taken first, so that no more than one batch waits beside the one that is applied.
        let Ok(permit) = to.reserve().await else { return };
        let batch = match ahead.next().await {
            Ok(None) => return,
            Ok(Some(Chunk { frames, last: Some(last), .. })) => {
                Batch::read(frames, last, &keys, &pool).await.map_err(RebuildError::from)
            }
            Ok(Some(chunk)) => Ok(Batch::gap(chunk.last_seq)),
            Err(error) => Err(error.into()),
        };
        let failed = batch.is_err();
        permit.send(batch.map(Box::new));
        if failed {
            return;
        }
    }
}
