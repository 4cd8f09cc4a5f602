//! Ending generations of claims.
//!
//! A reconciler: when the first claim of the current generation is older than the horizon, by the log's own time alone,
//! it publishes `claims_turned`. The projector turns when it applies the event, and so does a rebuild, at the same
//! place. The event names the generation that it ends, so it does no harm when two workers publish it. What was
//! forgotten by a turn is then emptied, beside the projector.

use std::time::Duration;

use chrono::TimeDelta;
use events::{Body, ClaimsTurned, Event, SOURCE_WORKER};
use ledger::{Clock, IdSource};
use nats::{EncodedEvent, Publisher};
use sqlx::{PgConnection, PgPool};
use store::projection::checkpoint::{self, Checkpoint, PARTITION};
use store::projection::claims;
use tokio_util::sync::CancellationToken;

use crate::config::WorkerConfig;
use crate::error::chain;
use crate::status::Status;
use crate::step::step;

/// Times between two looks: a hundredth of the horizon within these.
const LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_mins(10));
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// Reason for which no generation was ended.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The database is away.
    #[error("the generations of claims cannot be read")]
    Store(#[from] store::Error),
    /// The log is away.
    #[error("the end of a generation of claims cannot be published")]
    Publish(#[from] nats::PublishError),
}

/// Ends generations of claims that are old enough.
#[derive(Debug, Clone)]
pub struct Turner {
    /// Writes `claims_turned`.
    pub publisher: Publisher,
    /// Ids of these events.
    pub ids: IdSource,
    /// Time of these events, which decides nothing.
    pub clock: Clock,
    /// Time for which an id is remembered at least.
    pub horizon: TimeDelta,
}

impl Turner {
    /// As the worker is to end them.
    pub(crate) fn new(config: &WorkerConfig, publisher: &Publisher, ids: &IdSource) -> Self {
        Self {
            publisher: publisher.clone(),
            ids: ids.clone(),
            clock: config.clock.clone(),
            horizon: TimeDelta::from_std(config.dedupe_horizon).unwrap_or(TimeDelta::MAX),
        }
    }

    /// Publishes the end of the current generation, if it is due; answers the event's sequence.
    pub async fn turn_due(&self, conn: &mut PgConnection) -> Result<Option<u64>, TurnError> {
        let checkpoint = checkpoint::read(conn, PARTITION).await?;
        if !self.is_due(&checkpoint) {
            return Ok(None);
        }
        let body = Body::ClaimsTurned(ClaimsTurned { generation: checkpoint.claims.number });
        let event = Event::own(SOURCE_WORKER, self.ids.event_id(), None, self.clock.now(), body);
        let positions = self.publisher.publish_all(vec![EncodedEvent::of(&event)]).await?;
        Ok(positions.last().map(|position| position.seq))
    }

    /// The generation before it goes with the turn. It ended when this one had no claim yet, so its last claim is older
    /// than this one's first, and the horizon.
    fn is_due(&self, checkpoint: &Checkpoint) -> bool {
        match (checkpoint.claims.since, checkpoint.frame_time) {
            (Some(since), Some(now)) => now - since >= self.horizon,
            _ => false,
        }
    }
}

/// The worker's reconciler.
pub(crate) struct ClaimTurns {
    pub(crate) turner: Turner,
    pub(crate) pool: PgPool,
    pub(crate) status: Status,
}

impl ClaimTurns {
    /// Works until the worker ends, and only while it is the active one and has caught up.
    pub(crate) async fn run(self, shutdown: &CancellationToken) {
        tokio::select! {
            () = self.reconcile_for_ever() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn reconcile_for_ever(&self) {
        let horizon = self.turner.horizon.to_std().unwrap_or_default();
        let pause = (horizon / 100).clamp(LOOKS.0, LOOKS.1);
        let mut caught_up = self.status.caught_up();
        let mut published = 0;
        loop {
            // The sender lives as long as the status, which this holds.
            let _ = caught_up.wait_for(|caught_up| *caught_up).await;
            // What was published shows in the tables once it is projected.
            if self.status.seq() >= published {
                match step("turning claims", self.reconcile()).await {
                    Ok(seq) => published = seq.unwrap_or(published),
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "claims were not turned; trying again");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn reconcile(&self) -> Result<Option<u64>, TurnError> {
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        // The next turn needs the table, and would wait for whoever reads it.
        if !claims::empty_forgotten(&mut conn).await? {
            return Ok(None);
        }
        let turned = self.turner.turn_due(&mut conn).await?;
        if turned.is_some() {
            tracing::info!("a generation of claims is older than the horizon and ends");
        }
        Ok(turned)
    }
}
