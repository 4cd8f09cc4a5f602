//! The projections as one answer sees them.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use nats::{Log, LogError, Publisher};
use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres, Transaction};
use store::projection::checkpoint;

use super::position::{AsOf, Positions};
use super::settled::settled_seq;
use super::watermark::Watermark;

/// A read waits so long for the position that it asks for.
const MIN_SEQ_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the projections, at a position that is known. Cheap to clone.
#[derive(Clone)]
pub struct Projections(Arc<Parts>);

struct Parts {
    pool: PgPool,
    log: Log,
    publisher: Publisher,
    watermark: Watermark,
    positions: Positions,
}

/// Reason why a position was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotReached {
    /// It was not issued here.
    #[error("the position was not issued here")]
    Unknown,
    /// Nobody knows whether it was issued at all.
    #[error("the log does not say how far it is")]
    Log(#[from] LogError),
    /// The projections are behind it.
    #[error("the projections are behind it")]
    Late,
}

impl Projections {
    /// Reads through `pool`.
    pub fn new(
        pool: PgPool,
        log: Log,
        publisher: Publisher,
        watermark: Watermark,
        positions: Positions,
    ) -> Self {
        Self(Arc::new(Parts { pool, log, publisher, watermark, positions }))
    }

    /// A snapshot in which all of an answer's figures are read, and the position that it reflects.
    pub async fn snapshot(&self) -> Result<(Transaction<'static, Postgres>, AsOf), store::Error> {
        let (transaction, as_of, _) = self.snapshot_at().await?;
        Ok((transaction, as_of))
    }

    /// [`Projections::snapshot`], with the sequence of its position.
    pub async fn snapshot_at(&self) -> Result<(Transaction<'static, Postgres>, AsOf, u64), store::Error> {
        let mut transaction = self.transaction().await?;
        let checkpoint = checkpoint::read(&mut transaction, checkpoint::PARTITION).await?;
        let as_of = self.as_of(checkpoint.seq, checkpoint.frame_time);
        Ok((transaction, as_of, checkpoint.seq))
    }

    /// A snapshot whose position does not matter.
    pub async fn transaction(&self) -> Result<Transaction<'static, Postgres>, store::Error> {
        store::read::snapshot(&self.0.pool).await
    }

    /// A connection, for what needs no snapshot.
    pub async fn connection(&self) -> Result<PoolConnection<Postgres>, store::Error> {
        Ok(self.0.pool.acquire().await?)
    }

    /// The position of an answer that was read in the snapshot in which the checkpoint was at `seq`, of a frame stored
    /// at `time`.
    fn as_of(&self, seq: u64, time: Option<DateTime<Utc>>) -> AsOf {
        let Parts { publisher, watermark, positions, .. } = &*self.0;
        let log_seq = publisher.last_acked().max(watermark.log_seq());
        let lag_ms = if seq >= log_seq { 0 } else { watermark.lag_ms() };
        AsOf { position: positions.encode(seq), time, lag_ms }
    }

    /// The sequence that the projections have reached.
    pub fn current(&self) -> u64 {
        self.0.watermark.current()
    }

    /// Waits until the projections have reached `seq`; `false` when they have not after `timeout`.
    pub async fn wait_for(&self, seq: u64, timeout: Duration) -> bool {
        self.0.watermark.wait_for(seq, timeout).await
    }

    /// The sequence of the last event that this process has recorded.
    pub fn last_recorded(&self) -> u64 {
        self.0.publisher.last_acked()
    }

    /// The log's last sequence now.
    ///
    /// # Errors
    /// The log did not answer.
    pub async fn last_seq(&self) -> Result<u64, LogError> {
        Ok(self.0.log.state().await?.last_seq)
    }

    /// The log's last sequence, once it holds whatever it will ever hold of frames whose fate is not known by now.
    ///
    /// # Errors
    /// The log did not answer.
    pub async fn settled_seq(&self) -> Result<u64, LogError> {
        settled_seq(&self.0.log).await
    }

    /// Positions of this log.
    pub fn positions(&self) -> Positions {
        self.0.positions
    }

    /// Waits until the projections have reached a position that a client names.
    pub(super) async fn reach(&self, position: &str) -> Result<(), NotReached> {
        let Parts { log, publisher, watermark, positions, .. } = &*self.0;
        let seq = positions.decode(position).ok_or(NotReached::Unknown)?;
        if seq <= watermark.current() {
            return Ok(());
        }
        // Beyond what was written here another process may have written it.
        if seq > publisher.last_acked() && seq > log.state().await?.last_seq {
            return Err(NotReached::Unknown);
        }
        if watermark.wait_for(seq, MIN_SEQ_TIMEOUT).await { Ok(()) } else { Err(NotReached::Late) }
    }
}
