//! Closing months.
//!
//! A reconciler: it looks at the data for past months with something to list that are not closed, and publishes
//! `period_closed` for each. The projector closes the month when it applies the event; the first one wins, so it does
//! no harm when two workers publish it. Cron is a wake-up only, and so is the ledger's clock passing a month's end.
//!
//! A month into which rows still come is left alone until none came for the grace: if a backfill's first rows closed
//! it, all others would be adjustments. Who closes months by hand decides that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use events::{Body, Event, PeriodClosed, SOURCE_WORKER};
use ledger::{Clock, IdSource, Month};
use nats::{EncodedEvent, Publisher};
use sqlx::{PgConnection, PgPool};
use store::projection::{partitions, periods};
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::status::Status;
use crate::step::step;

/// Second 0 of minute 0 of every hour, the first one of a month among them.
const HOURLY: &str = "0 0 * * * *";
/// Time between two looks at the ledger's clock.
const TICK: Duration = Duration::from_secs(1);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// Reason for which months were not closed.
#[derive(Debug, thiserror::Error)]
pub enum RolloverError {
    /// The month has not ended, or not long enough ago.
    #[error("the month {month} cannot be closed before {from}", from = from.format("%Y-%m-%dT%H:%M:%SZ"))]
    NotOver {
        /// The month.
        month: Month,
        /// The time from which it can be.
        from: DateTime<Utc>,
    },
    /// The database is away.
    #[error("the months cannot be read")]
    Store(#[from] store::Error),
    /// The log is away.
    #[error("the months' ends cannot be published")]
    Publish(#[from] nats::PublishError),
}

/// When the last new rows of each month were projected, by the ledger's clock; of the time since this worker started.
/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LastRows(Arc<Mutex<BTreeMap<Month, DateTime<Utc>>>>);

impl LastRows {
    /// New rows of these months were projected.
    pub fn came(&self, months: impl IntoIterator<Item = Month>, now: DateTime<Utc>) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.extend(months.into_iter().map(|month| (month, now)));
    }

    /// Those of the months that had new rows within `grace` before `now`, and the time from which the first of them has
    /// had none for so long.
    fn busy(
        &self,
        months: &[Month],
        now: DateTime<Utc>,
        grace: TimeDelta,
    ) -> (Vec<Month>, Option<DateTime<Utc>>) {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet_from = |month: &Month| {
            last.get(month).map(|at| at.checked_add_signed(grace).unwrap_or(DateTime::<Utc>::MAX_UTC))
        };
        let busy = months.iter().filter(|month| quiet_from(month).is_some_and(|from| from > now));
        let busy: Vec<Month> = busy.copied().collect();
        let first = busy.iter().filter_map(quiet_from).min();
        (busy, first)
    }
}

/// Closes months that are over.
#[derive(Debug, Clone)]
pub struct Closer {
    /// Writes `period_closed`.
    pub publisher: Publisher,
    /// Ids of these events.
    pub ids: IdSource,
    /// Decides which months are over.
    pub clock: Clock,
    /// Time between a month's end and its closing.
    pub close_grace: TimeDelta,
}

impl Closer {
    /// Publishes the end of every month that is due, or of this one if it is; answers these months, with the last
    /// sequence. The partitions of this month and the next are made on the way.
    pub async fn close_due(
        &self,
        conn: &mut PgConnection,
        only: Option<Month>,
    ) -> Result<(Vec<Month>, u64), RolloverError> {
        let now = self.clock.now();
        if let Some(month) = only {
            let from = month.end().checked_add_signed(self.close_grace).unwrap_or(DateTime::<Utc>::MAX_UTC);
            if from > now {
                return Err(RolloverError::NotOver { month, from });
            }
        }
        let mut due = self.due(conn, now).await?;
        due.retain(|month| only.is_none_or(|only| only == *month));
        let seq = self.publish(&due, now).await?;
        Ok((due, seq))
    }

    /// The months that are to be closed. The partitions of this month and the next are made on the way.
    async fn due(&self, conn: &mut PgConnection, now: DateTime<Utc>) -> Result<Vec<Month>, store::Error> {
        let this = Month::of(now);
        for month in [this, this.next()] {
            partitions::ensure(conn, month).await?;
        }
        periods::unclosed(conn, self.last_due(now)).await
    }

    /// Publishes the end of these months; answers the last sequence, 0 if there are none.
    async fn publish(&self, due: &[Month], now: DateTime<Utc>) -> Result<u64, RolloverError> {
        if due.is_empty() {
            return Ok(0);
        }
        let events = due.iter().map(|month| self.event(*month, now)).collect();
        let positions = self.publisher.publish_all(events).await?;
        Ok(positions.last().map_or(0, |position| position.seq))
    }

    /// The last month that is over for long enough.
    fn last_due(&self, now: DateTime<Utc>) -> Month {
        // A grace beyond all times closes nothing.
        now.checked_sub_signed(self.close_grace).map_or(Month::FIRST, |then| Month::of(then).prev())
    }

    fn event(&self, month: Month, now: DateTime<Utc>) -> EncodedEvent {
        let body = Body::PeriodClosed(PeriodClosed { month });
        let event = Event::own(SOURCE_WORKER, self.ids.event_id(), None, now, body);
        EncodedEvent::of(&event)
    }
}

/// The worker's reconciler.
pub(crate) struct Rollover {
    pub(crate) closer: Closer,
    pub(crate) pool: PgPool,
    pub(crate) status: Status,
    pub(crate) last_rows: LastRows,
}

/// Outcome of a look.
#[derive(Debug, Default)]
struct Looked {
    /// The last sequence that was published.
    seq: u64,
    /// The time from which another month is to be closed, if none gets new rows any more.
    again_at: Option<DateTime<Utc>>,
}

impl Rollover {
    /// Works until the worker ends, and only while it is the active one and has caught up.
    pub(crate) async fn run(self, shutdown: &CancellationToken) {
        let wake = Arc::new(Notify::new());
        let mut cron = match scheduler(Arc::clone(&wake)).await {
            Ok(cron) => Some(cron),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "cron does not run; months are closed by the clock alone"
                );
                None
            }
        };
        tokio::select! {
            () = self.reconcile_for_ever(&wake) => {}
            () = shutdown.cancelled() => {}
        }
        if let Some(cron) = &mut cron
            && let Err(error) = cron.shutdown().await
        {
            tracing::debug!(error = chain(&error), "cron did not end");
        }
    }

    async fn reconcile_for_ever(&self, wake: &Notify) {
        let mut caught_up = self.status.caught_up();
        let mut done = None;
        let mut last = Looked::default();
        loop {
            // The sender lives as long as the status, which this holds.
            let _ = caught_up.wait_for(|caught_up| *caught_up).await;
            let now = self.closer.clock.now();
            let due = self.closer.last_due(now);
            if done == Some(due) && last.again_at.is_none_or(|at| at > now) {
                tokio::select! {
                    () = wake.notified() => done = None,
                    () = tokio::time::sleep(TICK) => {}
                }
                continue;
            }
            // What was published shows in the tables once it is projected.
            if self.status.seq() < last.seq {
                tokio::time::sleep(TICK).await;
                continue;
            }
            match step("closing months", self.reconcile()).await {
                Ok(looked) => (done, last) = (Some(due), Looked { seq: looked.seq.max(last.seq), ..looked }),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "past months were not closed; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn reconcile(&self) -> Result<Looked, RolloverError> {
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        let now = self.closer.clock.now();
        let mut months = self.closer.due(&mut conn, now).await?;
        let (busy, again_at) = self.last_rows.busy(&months, now, self.closer.close_grace);
        months.retain(|month| !busy.contains(month));
        let seq = self.closer.publish(&months, now).await?;
        for month in months {
            tracing::info!(%month, "the month is over and gets closed");
        }
        Ok(Looked { seq, again_at })
    }
}

async fn scheduler(wake: Arc<Notify>) -> Result<JobScheduler, JobSchedulerError> {
    let scheduler = JobScheduler::new().await?;
    scheduler.add(Job::new(HOURLY, move |_, _| wake.notify_one())?).await?;
    scheduler.start().await?;
    Ok(scheduler)
}
