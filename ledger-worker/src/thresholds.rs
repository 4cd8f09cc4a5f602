//! Crossings of 80 % and 100 % of a limit become events, once each.
//!
//! A reconciler: it looks at the summaries for crossings that no event tells of yet, and publishes those. A signal from
//! the projector only makes it look sooner, and at fewer users.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use events::{Body, Event, LimitThresholdCrossed, SOURCE_WORKER};
use ledger::{Clock, IdSource, Meter, Month, UserId};
use nats::{EncodedEvent, Publisher};
use sqlx::PgPool;
use store::summaries::Crossed;
use store::thresholds::{Unrecorded, unrecorded};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::status::Status;

/// More users than this are not remembered one by one: all are looked at.
const MAX_USERS: usize = 10_000;
/// How many crossings are published at a time.
const PAGE: i64 = 1_000;
/// How long signals are gathered.
const GATHER: Duration = Duration::from_millis(200);
/// How often all users are looked at, signal or not.
const FULL_SCAN: Duration = Duration::from_mins(10);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(2);

/// Tells the reconciler whom to look at. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signal(Arc<Pending>);

#[derive(Debug, Default)]
struct Pending {
    /// `None`: all of them.
    users: Mutex<Option<HashSet<UserId>>>,
    wake: Notify,
}

impl Signal {
    /// A signal that begins with a look at all users.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// These users' months reached a threshold.
    pub(crate) fn crossed(&self, crossed: Vec<Crossed>) {
        if crossed.is_empty() {
            return;
        }
        let mut users = self.0.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = users.as_mut() {
            known.extend(crossed.into_iter().map(|crossed| crossed.user));
            if known.len() > MAX_USERS {
                *users = None;
            }
        }
        self.0.wake.notify_one();
    }

    fn all(&self) {
        *self.0.users.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whom to look at; `None` is everybody.
    fn take(&self) -> Option<Vec<UserId>> {
        let mut users = self.0.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.replace(HashSet::new()).map(|users| users.into_iter().collect())
    }
}

/// A crossing that was published.
type Key = (UserId, Month, Meter, i16);

/// Publishes crossings that no event tells of yet.
pub(crate) struct Reconciler {
    pub(crate) pool: PgPool,
    pub(crate) publisher: Publisher,
    pub(crate) ids: IdSource,
    pub(crate) clock: Clock,
    pub(crate) status: Status,
    pub(crate) signal: Signal,
    /// Published and perhaps not projected yet, with the sequence.
    pub(crate) published: HashMap<Key, u64>,
}

#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error("the summaries cannot be read")]
    Store(#[from] store::Error),
    #[error("the crossings cannot be published")]
    Publish(#[from] nats::PublishError),
}

impl Reconciler {
    /// Works until the worker ends, and only while it is the active one and has caught up.
    pub(crate) async fn run(mut self, shutdown: &CancellationToken) {
        let mut caught_up = self.status.caught_up();
        loop {
            let wake = async {
                // The sender lives as long as the status, which this holds.
                let _ = caught_up.wait_for(|caught_up| *caught_up).await;
                tokio::select! {
                    () = self.signal.0.wake.notified() => {}
                    () = tokio::time::sleep(FULL_SCAN) => self.signal.all(),
                }
                tokio::time::sleep(GATHER).await;
            };
            tokio::select! {
                () = wake => {}
                () = shutdown.cancelled() => return,
            }
            if let Err(error) = self.reconcile().await {
                tracing::warn!(error = chain(&error), "crossed thresholds were not published; trying again");
                self.signal.all();
                self.signal.0.wake.notify_one();
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }

    async fn reconcile(&mut self) -> Result<(), ReconcileError> {
        let users = self.signal.take();
        let month = Month::of(self.clock.now());
        // What is projected shows in the table from here on.
        let projected = self.status.seq();
        self.published.retain(|_, seq| *seq > projected);
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        let found = unrecorded(&mut conn, month, users.as_deref(), PAGE).await?;
        drop(conn);
        let more = i64::try_from(found.len()).is_ok_and(|found| found == PAGE);
        let new: Vec<Unrecorded> =
            found.into_iter().filter(|found| !self.published.contains_key(&key(month, found))).collect();
        let events = new.iter().map(|crossing| self.event(month, crossing)).collect();
        if !new.is_empty() {
            let positions = self.publisher.publish_all(events).await?;
            for (crossing, position) in new.iter().zip(positions) {
                self.published.insert(key(month, crossing), position.seq);
            }
        }
        if more {
            self.signal.all();
            self.signal.0.wake.notify_one();
        }
        Ok(())
    }

    fn event(&self, month: Month, crossing: &Unrecorded) -> EncodedEvent {
        let body = Body::LimitThresholdCrossed(LimitThresholdCrossed {
            month,
            meter: crossing.meter,
            threshold_percent: u8::try_from(crossing.threshold_percent).unwrap_or(u8::MAX),
            used: crossing.used,
            limit: crossing.limit,
        });
        let id = self.ids.event_id();
        let event = Event::own(SOURCE_WORKER, id, Some(crossing.user), self.clock.now(), body);
        let mut json = Vec::with_capacity(512);
        events::encode(&event, &mut json);
        EncodedEvent::from(json)
    }
}

fn key(month: Month, crossing: &Unrecorded) -> Key {
    (crossing.user, month, crossing.meter, crossing.threshold_percent)
}
