//! Crossings of 80 % and 100 % of a limit, which become events once each.
//!
//! A reconciler: it looks at the summaries for crossings that no event tells of yet, and publishes those. A signal from
//! the projector only makes it look sooner, and at fewer users.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use events::{Body, Event, LimitThresholdCrossed, SOURCE_WORKER};
use ledger::{Clock, IdSource, Meter, Month, UserId};
use nats::{EncodedEvent, Publisher};
use sqlx::{PgConnection, PgPool};
use store::projection::summaries::Crossed;
use store::projection::thresholds::{Unrecorded, open_months, unrecorded};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::status::Status;

/// More months of users than this are not remembered one by one: all are looked at.
const MAX_MONTHS: usize = 10_000;
/// The most crossings that are published at a time.
const PAGE: i64 = 1_000;
/// Time for which signals are gathered.
const GATHER: Duration = Duration::from_millis(200);
/// Time between two looks at all users, signal or not.
const FULL_SCAN: Duration = Duration::from_mins(10);
/// Time for which a closed month is still looked at with the open ones: a worker that was away at a month's end closes
/// it before it has looked.
const CLOSED_FOR: TimeDelta = TimeDelta::days(7);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(2);

/// Tells the reconciler whom to look at. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signal(Arc<Pending>);

#[derive(Debug, Default)]
struct Pending {
    /// `None`: all of them.
    months: Mutex<Option<HashSet<(UserId, Month)>>>,
    wake: Notify,
}

impl Signal {
    /// A signal that begins with a look at all users.
    pub(crate) fn new() -> Self {
        let signal = Self::default();
        // Without it the first look would be a whole interval away.
        signal.0.wake.notify_one();
        signal
    }

    /// These users' months reached a threshold.
    pub(crate) fn crossed(&self, crossed: Vec<Crossed>) {
        if crossed.is_empty() {
            return;
        }
        let mut months = self.0.months.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = months.as_mut() {
            known.extend(crossed.into_iter().map(|crossed| (crossed.user, crossed.month)));
            if known.len() > MAX_MONTHS {
                *months = None;
            }
        }
        self.0.wake.notify_one();
    }

    fn all(&self) {
        *self.0.months.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Takes the users' months to look at; `None` is all of them.
    fn take(&self) -> Option<HashSet<(UserId, Month)>> {
        self.0.months.lock().unwrap_or_else(PoisonError::into_inner).replace(HashSet::new())
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
        let signalled = self.signal.take();
        // What is projected shows in the table from here on.
        let projected = self.status.seq();
        self.published.retain(|_, seq| *seq > projected);
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        let (found, more) = look(&mut conn, signalled, self.clock.now() - CLOSED_FOR).await?;
        drop(conn);
        let new: Vec<(Month, Unrecorded)> = found
            .into_iter()
            .filter(|(month, found)| !self.published.contains_key(&crossing_key(*month, found)))
            .collect();
        let events = new.iter().map(|(month, crossing)| self.event(*month, crossing)).collect();
        if !new.is_empty() {
            let positions = self.publisher.publish_all(events).await?;
            for ((month, crossing), position) in new.iter().zip(positions) {
                self.published.insert(crossing_key(*month, crossing), position.seq);
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
        EncodedEvent::of(&event)
    }
}

/// Crossings that no event tells of, and whether there may be more than these. A month that was closed long ago is
/// looked at only when it was signalled: a call that comes so late is told of, and nobody searches old months for it.
async fn look(
    conn: &mut PgConnection,
    signalled: Option<HashSet<(UserId, Month)>>,
    closed_since: DateTime<Utc>,
) -> Result<(Vec<(Month, Unrecorded)>, bool), store::Error> {
    let mut months: HashMap<Month, Option<Vec<UserId>>> = HashMap::new();
    match signalled {
        None => months.extend(open_months(conn, closed_since).await?.into_iter().map(|month| (month, None))),
        Some(signalled) => {
            for (user, month) in signalled {
                months.entry(month).or_default().get_or_insert_default().push(user);
            }
        }
    }
    let mut found = Vec::new();
    for (month, users) in months {
        let page = unrecorded(conn, month, users.as_deref(), PAGE).await?;
        found.extend(page.into_iter().map(|crossing| (month, crossing)));
        if i64::try_from(found.len()).is_ok_and(|found| found >= PAGE) {
            return Ok((found, true));
        }
    }
    Ok((found, false))
}

fn crossing_key(month: Month, crossing: &Unrecorded) -> CrossingKey {
    (crossing.user, month, crossing.meter, crossing.threshold_percent)
}
