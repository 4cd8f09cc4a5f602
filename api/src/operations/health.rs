//! State of the log, of the database and of the projector: one look a second, shared by all who ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nats::{Log, Publisher, PublisherState};
use serde::Serialize;
use sqlx::PgPool;
use store::operations::projector_status::{self, Status};
use store::projection::checkpoint;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::facts::Watermark;
use crate::http::problem::Chain;
use crate::limits::Limits;

/// A look is so old at most.
const INTERVAL: Duration = Duration::from_secs(1);
/// A dependency that does not answer in this time is away.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at the dependencies. Cheap to clone.
#[derive(Clone)]
pub struct Health(Arc<Parts>);

struct Parts {
    pool: PgPool,
    log: Log,
    publisher: Publisher,
    watermark: Watermark,
    limits: Limits,
    last: tokio::sync::Mutex<Option<(Instant, Report)>>,
}

/// What was seen.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Report {
    /// `ready`, or `unavailable` when log or database is away or calls cannot be decided about.
    pub status: &'static str,
    /// PostgreSQL.
    pub database: Dependency,
    /// NATS JetStream.
    pub log: Dependency,
    /// What turns events into figures. It may be behind or stopped while writes go on.
    pub projector: Projector,
    /// What decides about calls.
    pub limits: Deciding,
    /// What takes reported calls in.
    pub ingest: TakingIn,
}

/// Whether reported calls are taken in. While the projection is behind, those who report have to wait (429), the
/// largest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TakingIn {
    /// `open`; `largest_wait`: reporters above their fair share of what is not projected are answered 429; `all_wait`:
    /// all reporters are; `admission_waits`: users with many calls that are not projected are answered 503, too.
    pub stage: &'static str,
    /// Bytes that this instance has written and that are not projected yet.
    pub unprojected_bytes: u64,
}

/// Whether calls can be decided about. While they cannot, those that ask are answered 503 and this instance is not
/// ready (under `LIMIT_FAILURE_MODE=open` they are admitted); reads go on.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Deciding {
    /// `ready`, or `unready`.
    pub status: &'static str,
    /// Why not.
    pub reason: Option<String>,
}

/// A dependency.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Dependency {
    /// `ok` or `away`.
    pub status: &'static str,
    /// What is wrong, if something is.
    pub reason: Option<&'static str>,
}

/// The projector.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Projector {
    /// `running`, `standby`, `retrying`, `stopped` (an operator must act), `absent` (no worker has said anything for
    /// 5 s), or `unknown` while the database is away.
    pub state: &'static str,
    /// Why it is not simply running, naming the range of the log where that matters.
    pub reason: Option<String>,
    /// Sequence of the last projected frame.
    pub seq: u64,
    /// Frames of the log that are not projected yet.
    pub lag_frames: u64,
    /// Events in them, from the mean number of events in a frame so far.
    pub lag_events: u64,
    /// Milliseconds for which the oldest frame that is not projected has been in the log, as far as it was looked at; 0
    /// when all is projected.
    pub lag_ms: u64,
    /// Events that could not be applied and were set aside.
    pub dead_letters: Option<i64>,
}

struct Database {
    checkpoint: checkpoint::Checkpoint,
    status: Option<Status>,
    dead_letters: i64,
}

impl Health {
    /// Looks at these.
    pub fn new(pool: PgPool, log: Log, publisher: Publisher, watermark: Watermark, limits: Limits) -> Self {
        let last = tokio::sync::Mutex::new(None);
        Self(Arc::new(Parts { pool, log, publisher, watermark, limits, last }))
    }

    /// The last look, if it is not too old and limits are decided as they were then, else a new one. Those who ask at
    /// the same time share it.
    pub async fn report(&self) -> Report {
        let mut last = self.0.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < INTERVAL
            && self.0.limits.readiness().is_ok() == (report.limits.status == "ready")
        {
            return report.clone();
        }
        let report = self.look().await;
        *last = Some((Instant::now(), report.clone()));
        report
    }

    /// Looks every second until `shutdown`, so that lag is known without anybody asking.
    pub(crate) async fn keep_looking(self, shutdown: CancellationToken) {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = "ready";
        while shutdown.run_until_cancelled(interval.tick()).await.is_some() {
            let Some(report) = shutdown.run_until_cancelled(self.report()).await else { return };
            gauges(&report);
            if report.status != before {
                let (log, database) = (report.log.status, report.database.status);
                let limits = report.limits.status;
                tracing::warn!(status = report.status, log, database, limits, "readiness changed");
                before = report.status;
            }
        }
    }

    async fn look(&self) -> Report {
        let (log, database) = tokio::join!(
            tokio::time::timeout(PATIENCE, self.0.log.state()),
            tokio::time::timeout(PATIENCE, self.look_at_database()),
        );
        let log_state = match log {
            Ok(Ok(state)) => Some(state),
            Ok(Err(error)) => {
                tracing::debug!(error = %Chain(&error), "the log is away");
                None
            }
            Err(_) => None,
        };
        if let Some(state) = &log_state {
            self.0.watermark.log_is_at(state.last_seq);
        }
        let database = match database {
            Ok(Ok(database)) => Some(database),
            Ok(Err(error)) => {
                tracing::debug!(error = %Chain(&error), "the database is away");
                None
            }
            Err(_) => None,
        };
        let log = self.log_dependency(log_state.is_some());
        let decides = self.0.limits.readiness();
        let ready = log.status == "ok" && database.is_some() && (decides.is_ok() || self.0.limits.is_open());
        Report {
            status: if ready { "ready" } else { "unavailable" },
            log,
            projector: self.projector(database.as_ref()),
            limits: match decides {
                Ok(()) => Deciding { status: "ready", reason: None },
                Err(reason) => Deciding { status: "unready", reason: Some(reason.to_string()) },
            },
            ingest: TakingIn {
                stage: self.0.limits.backlog_stage().as_str(),
                unprojected_bytes: self.0.watermark.unprojected_bytes(),
            },
            database: match database {
                Some(_) => Dependency { status: "ok", reason: None },
                None => Dependency { status: "away", reason: Some("PostgreSQL does not answer") },
            },
        }
    }

    async fn look_at_database(&self) -> Result<Database, store::Error> {
        let mut conn = self.0.pool.acquire().await?;
        Ok(Database {
            checkpoint: checkpoint::read(&mut conn, checkpoint::PARTITION).await?,
            status: projector_status::read(&mut conn, checkpoint::PARTITION).await?,
            dead_letters: store::read::health::dead_letters(&mut conn).await?,
        })
    }

    fn log_dependency(&self, answers: bool) -> Dependency {
        match self.0.publisher.state() {
            PublisherState::LogWentBackwards => Dependency {
                status: "away",
                reason: Some(
                    "the log lost frames that it had acknowledged; nothing is written until a restart",
                ),
            },
            PublisherState::Stalled => {
                Dependency { status: "away", reason: Some("the log does not acknowledge writes") }
            }
            PublisherState::Closed => {
                Dependency { status: "away", reason: Some("this instance is shutting down") }
            }
            PublisherState::Ready if answers => Dependency { status: "ok", reason: None },
            PublisherState::Ready => {
                Dependency { status: "away", reason: Some("NATS JetStream does not answer") }
            }
        }
    }

    fn projector(&self, database: Option<&Database>) -> Projector {
        let seq = database.map_or_else(|| self.0.watermark.current(), |database| database.checkpoint.seq);
        let lag_frames = self.0.watermark.log_seq().saturating_sub(seq);
        let (state, reason) = match database {
            None => ("unknown", None),
            Some(Database { status: Some(status), .. }) if status.age_ms <= projector_status::SILENCE_MS => {
                (status.state.as_str(), status.reason.clone())
            }
            Some(_) => ("absent", Some("no worker has said anything for 5 s".to_owned())),
        };
        let events = database.map_or(0, |database| database.checkpoint.events);
        Projector {
            state,
            reason,
            seq,
            lag_frames,
            lag_events: lag_frames.saturating_mul(events.checked_div(seq).unwrap_or(1).max(1)),
            lag_ms: if lag_frames == 0 { 0 } else { self.0.watermark.lag_ms() },
            dead_letters: database.map(|database| database.dead_letters),
        }
    }
}

/// Sets the metrics that say what the report says.
fn gauges(report: &Report) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and exact up to 2^53")]
    let number = |value: u64| value as f64;
    metrics::gauge!("ledger_projector_lag_events").set(number(report.projector.lag_events));
    metrics::gauge!("ledger_projector_lag_frames").set(number(report.projector.lag_frames));
    metrics::gauge!("ledger_unprojected_bytes").set(number(report.ingest.unprojected_bytes));
    metrics::gauge!("ledger_ready").set(f64::from(u8::from(report.status == "ready")));
}
