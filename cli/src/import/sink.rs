//! The way of calls into the log: the same ingest path as `POST /api/usage/events`, in this process.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use api::auth::Accounts;
use api::ingest::{CallDraft, Draft, EndpointDraft, Intake, Item, Receipt, Reporter, TimeWindow};
use api::metering::sealer::Sealer;
use data_keys::{KeyConfig, Keys};
use events::{ActorKind, SOURCE_IMPORT};
use ledger::{Clock, IdSource, Rules, UserId, UserRef};
use nats::{Connection, Publisher, PublisherConfig};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use store::operations::projector_status::{self, SILENCE_MS, Status};
use store::projection::checkpoint::{self, PARTITION};
use uuid::Uuid;

use super::read::Numbered;

use crate::config::Settings;

/// One for the look-ups, one for the wait at the end.
const DATABASE_CONNECTIONS: u32 = 2;
/// Time for which a batch is tried again while log or database are away.
const RETRY_FOR: Duration = Duration::from_mins(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Time that an import gives the projection to catch up before it begins.
const CATCH_UP: Duration = Duration::from_secs(10);
/// Time between two questions to the projection.
pub(super) const POLL_EVERY: Duration = Duration::from_millis(50);
/// Time for which a projection may stand still before nobody waits for it any more.
pub(super) const STANDSTILL: Duration = Duration::from_secs(30);

/// Settings that it takes to write calls.
#[derive(Clone)]
pub(crate) struct SinkConfig {
    /// `DATABASE_URL`.
    pub(crate) database_url: SecretString,
    /// `NATS_URL`, `NATS_MONITOR_URL`, `NATS_STREAM`.
    pub(crate) nats: Connection,
    /// `ALLOW_UNSAFE_LOG`.
    pub(crate) allow_unsafe_log: bool,
    /// `RULES_FILE`.
    pub(crate) rules: Rules,
    /// The root keys.
    pub(crate) keys: KeyConfig,
    /// The ledger's clock.
    pub(crate) clock: Clock,
    /// `MAX_LAG`.
    pub(crate) max_lag: Duration,
}

impl SinkConfig {
    /// Reads them from the settings.
    pub(crate) fn of(settings: &Settings, clock: Clock) -> anyhow::Result<Self> {
        let database_url = settings.database_url()?.into();
        let log = settings.log()?;
        Ok(Self {
            database_url,
            nats: log.connection_of("usage-ledger import"),
            allow_unsafe_log: log.allow_unsafe,
            rules: settings.rules()?,
            keys: settings.keys(),
            clock,
            max_lag: settings.max_lag()?,
        })
    }
}

/// Takes calls in.
pub(crate) struct Sink {
    connected: Connected,
    intake: Intake,
    source: String,
    max_lag: Duration,
}

/// Answer to the question whether the projections hold everything up to a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Projected {
    /// They hold it.
    Yes,
    /// No worker runs.
    NoWorker,
    /// A worker runs, but does not get on; with what it says.
    Standstill(Option<String>),
}

/// Log and database, proven to be what they should.
pub(crate) struct Connected {
    pub(crate) pool: PgPool,
    pub(crate) keys: Keys,
    pub(crate) publisher: Publisher,
    /// The log's last sequence when it was connected to.
    pub(crate) last_seq: u64,
}

impl Connected {
    /// Connects to log and database, and proves that the log's word can be relied on.
    pub(crate) async fn open(config: &SinkConfig) -> anyhow::Result<Self> {
        let pool = store::pool(config.database_url.expose_secret(), DATABASE_CONNECTIONS)?;
        let mut conn = pool.acquire().await.context("the database cannot be reached (DATABASE_URL)")?;
        let read = checkpoint::read(&mut conn, PARTITION).await;
        read.context("the database has no ledger's tables yet: run `usage-ledger migrate`")?;
        drop(conn);
        let keys = Keys::start(config.database_url.expose_secret(), &config.keys, &config.clock).await?;
        let log = nats::connect(&config.nats).await?;
        log.verify(config.allow_unsafe_log).await?;
        let ids = IdSource::new(config.clock.clone());
        let publisher = Publisher::start(&log, PublisherConfig::default(), move || ids.random_id()).await?;
        let last_seq = log.state().await?.last_seq;
        Ok(Self { pool, keys, publisher, last_seq })
    }

    /// Waits until the projections hold everything that the log held at the start, not long.
    pub(crate) async fn catch_up(&self) -> anyhow::Result<Projected> {
        match tokio::time::timeout(CATCH_UP, self.wait_projected(self.last_seq)).await {
            Ok(projected) => projected,
            Err(_elapsed) => Ok(Projected::Standstill(None)),
        }
    }

    /// Waits until the projections hold everything up to `seq`, as long as a worker gets on with it.
    pub(crate) async fn wait_projected(&self, seq: u64) -> anyhow::Result<Projected> {
        let mut furthest = (0, Instant::now());
        loop {
            let (reached, worker) = self.look().await?;
            if reached >= seq {
                return Ok(Projected::Yes);
            }
            if reached > furthest.0 {
                furthest = (reached, Instant::now());
            }
            let Some(worker) = worker else {
                return Ok(Projected::NoWorker);
            };
            if furthest.1.elapsed() > STANDSTILL || worker.state == projector_status::State::Stopped {
                return Ok(Projected::Standstill(worker.reason));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// The last projected sequence, and what the worker says if one runs.
    pub(super) async fn look(&self) -> Result<(u64, Option<Status>), store::Error> {
        let mut conn = self.pool.acquire().await?;
        let reached = checkpoint::read(&mut conn, PARTITION).await?.seq;
        let worker = projector_status::read(&mut conn, PARTITION).await?;
        Ok((reached, worker.filter(|worker| worker.age_ms < SILENCE_MS)))
    }

    /// Waits for what is under way, and lets go of the connections.
    pub(crate) async fn close(self) {
        self.publisher.close().await;
        self.pool.close().await;
    }
}

impl Sink {
    /// Connects to log and database, and lets the projections catch up.
    ///
    /// Only what is projected is known to be a duplicate at once. Right after an interrupted import the worker may have
    /// calls of it before it still, and they would be told as accepted; they count once in any case.
    ///
    /// `source` is a part of every call's identity.
    pub(crate) async fn open(config: SinkConfig, source: String) -> anyhow::Result<Self> {
        let connected = Connected::open(&config).await?;
        let Connected { pool, keys, publisher, .. } = &connected;
        // Who runs an import may make users: nobody could import the log of a server with new clients otherwise.
        let accounts = Accounts::new(pool.clone(), keys.clone(), config.clock.clone(), true);
        let sealer = Sealer::new(keys.clone(), pool.clone());
        let (clock, rules, max_lag) = (config.clock, config.rules, config.max_lag);
        let intake = Intake::new(pool.clone(), sealer, accounts, publisher.clone(), clock, rules, None);
        connected.catch_up().await?;
        Ok(Self { connected, intake, source, max_lag })
    }

    /// Takes in at most [`api::ingest::MAX_ITEMS`] calls. When this returns, they are on disk. While log or database
    /// are away it tries again: the calls have ids of their own, so none counts twice.
    pub(crate) async fn take(&self, calls: &[Numbered]) -> anyhow::Result<Receipt> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let items = calls.iter().map(|numbered| Item::Ok(draft(numbered, &self.source))).collect();
            let error = match self.intake.take(&reporter(), items).await {
                Ok(receipt) => return Ok(receipt),
                Err(error) => error,
            };
            let may_pass = error.is_passing() && started.elapsed() <= RETRY_FOR;
            let reason = error.into_detail();
            if !may_pass {
                bail!("{reason}");
            }
            tracing::warn!(reason, "not taken in yet; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Log and database.
    pub(super) fn connected(&self) -> &Connected {
        &self.connected
    }

    /// `MAX_LAG`.
    pub(super) fn max_lag(&self) -> Duration {
        self.max_lag
    }

    /// [`Connected::wait_projected`].
    pub(crate) async fn wait_projected(&self, seq: u64) -> anyhow::Result<Projected> {
        self.connected.wait_projected(seq).await
    }

    /// [`Connected::close`].
    pub(crate) async fn close(self) {
        self.connected.close().await;
    }
}

/// What a call is held to where nothing is written.
#[derive(Clone, Copy)]
pub(crate) struct Checks<'a> {
    /// The ledger's clock.
    pub(crate) clock: &'a Clock,
    /// `RULES_FILE`.
    pub(crate) rules: &'a Rules,
}

/// Says of every call whether it would be accepted, without writing anything or asking anybody.
pub(crate) fn check(
    numbered: &Numbered,
    Checks { clock, rules }: Checks<'_>,
) -> Result<(), api::http::problem::FieldError> {
    api::ingest::check(draft(numbered, SOURCE_IMPORT), &reporter(), rules, clock.now())
}

/// An operator, who names the user of every call.
fn reporter() -> Reporter {
    Reporter {
        user: UserId::new(Uuid::nil()),
        kind: ActorKind::Operator,
        may_name_others: true,
        window: TimeWindow::Backfill,
        key: None,
    }
}

fn draft<'a>(numbered: &'a Numbered, source: &'a str) -> Draft<'a> {
    let call = &numbered.call;
    Draft {
        id: Cow::Borrowed(&numbered.id),
        source: Some(Cow::Borrowed(source)),
        subject: Some(match &call.user {
            UserRef::Id(id) => Cow::Owned(id.to_string()),
            UserRef::External(external) => Cow::Borrowed(external.as_str()),
        }),
        time: Some(call.time),
        call: CallDraft {
            endpoint: EndpointDraft::Path(Cow::Borrowed(&call.endpoint)),
            method: call.method.as_deref().map(Cow::Borrowed),
            status_code: call.status_code,
            response_time_ms: call.response_time_ms,
            ip_address: call.ip_address.map(|address| Cow::Owned(address.to_string())),
            user_agent: call.user_agent.as_deref().map(Cow::Borrowed),
            request_size: call.request_size,
            response_size: call.response_size,
            units: call.units,
        },
    }
}
