//! Crossings of 80 % and 100 % of a limit, which become events once each.
//!
//! A reconciler: it looks at the months that were noted as they reached a threshold, in the transaction that made them,
//! and publishes the crossings that no event tells of yet. A note goes when its event is projected. So it never looks
//! at all users, and nothing is lost between a commit and a publish. A signal from the projector only makes it look
//! sooner.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use events::{Body, Event, LimitThresholdCrossed, SOURCE_WORKER};
use ledger::{Clock, IdSource, Meter, Month, UserId};
use nats::{EncodedEvent, Publisher};
use sqlx::PgPool;
use store::projection::thresholds::{self, Pending, Unrecorded};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::status::Status;
use crate::step::step;

/// Noted months that are looked at in one go.
const PAGE: i64 = 500;
/// The most crossings that are published and not projected yet; further ones wait for these.
const MAX_PUBLISHED: usize = 10_000;
/// Time for which signals are gathered.
const GATHER: Duration = Duration::from_millis(200);
/// Time between two looks, signal or not: a note may come from elsewhere.
const INTERVAL: Duration = Duration::from_mins(1);
/// The pause after a failure, or while published crossings wait for their projection.
const PAUSE: Duration = Duration::from_secs(2);

/// A user's month in which a threshold may have been crossed.
type NotedMonth = (UserId, Month);

/// Tells the reconciler that months were noted. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signal(Arc<Notify>);

impl Signal {
    pub(crate) fn look(&self) {
        self.0.notify_one();
    }
}

/// A crossing that was published.
type CrossingKey = (UserId, Month, Meter, i16);

/// Publishes crossings that no event tells of yet.
pub(crate) struct Reconciler {
    pub(crate) pool: PgPool,
    pub(crate) publisher: Publisher,
    pub(crate) ids: IdSource,
    pub(crate) clock: Clock,
    pub(crate) status: Status,
    pub(crate) signal: Signal,
    /// Published and perhaps not projected yet, with the sequence.
    pub(crate) published: HashMap<CrossingKey, u64>,
}

#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error("the noted months cannot be read")]
    Store(#[from] store::Error),
    #[error("the crossings cannot be published")]
    Publish(#[from] nats::PublishError),
}

impl Reconciler {
    /// Works until the worker ends, and only while it is the active one and has caught up.
    pub(crate) async fn run(mut self, shutdown: &CancellationToken) {
        let mut caught_up = self.status.caught_up();
        // What an earlier worker left to tell is looked for at once.
        self.signal.look();
        loop {
            let wake = async {
                // The sender lives as long as the status, which this holds.
                let _ = caught_up.wait_for(|caught_up| *caught_up).await;
                tokio::select! {
                    () = self.signal.0.notified() => {}
                    () = tokio::time::sleep(INTERVAL) => {}
                }
                tokio::time::sleep(GATHER).await;
            };
            tokio::select! {
                () = wake => {}
                () = shutdown.cancelled() => return,
            }
            let is_done = self.reconcile(shutdown).await.unwrap_or_else(|error| {
                tracing::warn!(error = chain(&error), "crossed thresholds were not published; trying again");
                false
            });
            if !is_done {
                self.signal.look();
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }

    /// Looks at all noted months, page by page; `false` when some have to wait for others.
    async fn reconcile(&mut self, shutdown: &CancellationToken) -> Result<bool, ReconcileError> {
        let mut after = None;
        while !shutdown.is_cancelled() {
            // What is projected shows in the tables from here on.
            let projected = self.status.seq();
            self.published.retain(|_, seq| *seq > projected);
            if self.published.len() >= MAX_PUBLISHED {
                return Ok(false);
            }
            let page = step("looking for thresholds", self.page(after)).await?;
            let Some((last, open)) = page else { return Ok(true) };
            after = Some(last);
            self.publish(&open).await?;
        }
        Ok(true)
    }

    /// The noted months behind this one, with the last of them: those that have crossings to be told. The others are
    /// settled. `None` when there are no more.
    async fn page(
        &self,
        after: Option<NotedMonth>,
    ) -> Result<Option<(NotedMonth, Vec<Pending>)>, store::Error> {
        let mut conn = self.pool.acquire().await?;
        let page = thresholds::pending(&mut conn, after, PAGE).await?;
        let Some(last) = page.last().map(|last| (last.user, last.month)) else { return Ok(None) };
        let (settled, open): (Vec<_>, Vec<_>) =
            page.into_iter().partition(|pending| pending.unrecorded.is_empty());
        if !settled.is_empty() {
            thresholds::settle(&mut conn, &settled).await?;
        }
        Ok(Some((last, open)))
    }

    async fn publish(&mut self, open: &[Pending]) -> Result<(), ReconcileError> {
        let new: Vec<(&Pending, &Unrecorded)> = open
            .iter()
            .flat_map(|pending| pending.unrecorded.iter().map(move |crossing| (pending, crossing)))
            .filter(|(pending, crossing)| !self.published.contains_key(&crossing_key(pending, crossing)))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let events = new.iter().map(|(pending, crossing)| self.event(pending, crossing)).collect();
        let positions = self.publisher.publish_all(events).await?;
        for ((pending, crossing), position) in new.into_iter().zip(positions) {
            self.published.insert(crossing_key(pending, crossing), position.seq);
        }
        Ok(())
    }

    fn event(&self, pending: &Pending, crossing: &Unrecorded) -> EncodedEvent {
        let body = Body::LimitThresholdCrossed(LimitThresholdCrossed {
            month: pending.month,
            meter: crossing.meter,
            threshold_percent: u8::try_from(crossing.threshold_percent).unwrap_or(u8::MAX),
            used: crossing.used,
            limit: crossing.limit,
        });
        let id = self.ids.event_id();
        let event = Event::own(SOURCE_WORKER, id, Some(pending.user), self.clock.now(), body);
        EncodedEvent::of(&event)
    }
}

fn crossing_key(pending: &Pending, crossing: &Unrecorded) -> CrossingKey {
    (pending.user, pending.month, crossing.meter, crossing.threshold_percent)
}
