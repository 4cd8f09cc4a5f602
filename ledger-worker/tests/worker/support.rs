//! A ledger for one test: database, log, publisher and workers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use data_keys::Keys;
use events::{Actor, ActorKind, ApiCalled, Body, Event, PlanChanged, UsageReset};
use ledger::{Category, Currency, Money, Month, PlanName, UserId};
use ledger_worker::WorkerConfig;
use nats::{Connection, EncodedEvent, Log, Position, Publisher, PublisherConfig};
use testkit::{Env, PrivateServers, wait_until};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const BOUND: Duration = Duration::from_secs(30);

pub(crate) struct TestLedger {
    pub(crate) env: Env,
    pub(crate) log: Log,
    pub(crate) publisher: Publisher,
    connection: Connection,
    pub(crate) keys: Keys,
    /// The reason why a worker did not start.
    refusal: Arc<OnceLock<String>>,
}

pub(crate) struct Worker {
    task: JoinHandle<Result<(), ledger_worker::WorkerError>>,
    shutdown: CancellationToken,
}

impl Worker {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the worker does not panic").expect("the worker ends well");
    }

    /// Ends it wherever it is, like a kill does for its connections.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl TestLedger {
    pub(crate) async fn start() -> Result<Self> {
        let env = Env::start().await?;
        let connection = env.connection();
        Self::with_log(env, connection).await
    }

    /// Starts with a log of its own.
    pub(crate) async fn on(servers: &PrivateServers) -> Result<Self> {
        let mut connection = Connection::new(servers.nats.url(), "LEDGER".parse()?);
        connection.monitor_url = Some(servers.nats.monitor_url());
        Self::with_log(Env::start().await?, connection).await
    }

    async fn with_log(env: Env, connection: Connection) -> Result<Self> {
        let log = nats::connect(&connection).await?;
        log.ensure_stream(1).await?;
        let ids = env.ids.clone();
        let publisher = Publisher::start(&log, PublisherConfig::default(), move || ids.random_id()).await?;
        let keys = Keys::start(env.database_url(), &testkit::keys(), &env.clock).await?;
        Ok(Self { env, log, publisher, connection, keys, refusal: Arc::default() })
    }

    /// Connects anew, as a process that is started again: another connection, another producer.
    pub(crate) async fn reconnected(self) -> Result<Self> {
        Self::with_log(self.env, self.connection).await
    }

    pub(crate) fn spawn_worker(&self) -> Worker {
        self.spawn_worker_with(|_| {})
    }

    pub(crate) fn spawn_worker_with(&self, set: impl FnOnce(&mut WorkerConfig)) -> Worker {
        let shutdown = CancellationToken::new();
        let mut config = self.env.worker_config();
        config.nats = self.connection.clone();
        set(&mut config);
        let running = ledger_worker::run(config, shutdown.clone());
        let refusal = Arc::clone(&self.refusal);
        let task = tokio::spawn(async move {
            let ended = Box::pin(running).await;
            if let Err(error) = &ended {
                let _ = refusal.set(format!("{error:?}"));
            }
            ended
        });
        Worker { task, shutdown }
    }

    pub(crate) async fn publish(&self, events: &[Event<'_>]) -> Vec<Position> {
        let encoded = events.iter().map(encoded).collect();
        self.publisher.publish_all(encoded).await.expect("the log takes the events")
    }

    /// Waits until everything that is in the log now is projected.
    pub(crate) async fn projected(&self) {
        let last = self.log.state().await.expect("the log answers").last_seq;
        self.projected_to(last).await;
    }

    #[track_caller]
    pub(crate) fn projected_to(&self, seq: u64) -> impl Future<Output = ()> {
        self.wait_until(move || async move {
            self.number("SELECT seq FROM projection_checkpoint").await.unsigned_abs() >= seq
        })
    }

    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(self.env.pool()).await.expect("the query runs")
    }

    pub(crate) async fn text(&self, query: &'static str) -> String {
        let row = sqlx::query_scalar(query).fetch_optional(self.env.pool()).await.expect("the query runs");
        let text: Option<String> = row.flatten();
        text.unwrap_or_default()
    }

    /// Waits until the query answers this.
    #[track_caller]
    pub(crate) fn until(&self, query: &'static str, answer: &str) -> impl Future<Output = ()> {
        self.wait_until(move || async move { self.text(query).await == answer })
    }

    /// Waits for what a worker does. One that refuses to start says why in its error alone, and whoever waits for its
    /// work would wait in vain.
    #[track_caller]
    fn wait_until<F: Future<Output = bool>>(
        &self,
        mut condition: impl FnMut() -> F,
    ) -> impl Future<Output = ()> {
        let refusal = Arc::clone(&self.refusal);
        wait_until(BOUND, move || {
            assert_eq!(refusal.get(), None, "the worker did not start");
            condition()
        })
    }

    pub(crate) fn user(&self) -> UserId {
        UserId::new(self.env.ids.random_id())
    }

    /// A call that our own api admitted.
    pub(crate) fn own_call(&self, user: UserId, called: ApiCalled<'static>) -> Event<'static> {
        Event::by_api(self.env.ids.event_id(), user, self.env.clock.now(), Body::ApiCalled(called))
    }
}

pub(crate) fn encoded(event: &Event<'_>) -> EncodedEvent {
    EncodedEvent::of(event)
}

/// An event of a type that a later version writes.
pub(crate) fn of_a_later_version() -> EncodedEvent {
    let event = concat!(
        r#"{"specversion":"1.0","id":"x","source":"urn:usage-ledger:api","type":"usage.new.v9","#,
        r#""time":"2026-11-01T00:00:00Z","data":{}}"#
    );
    EncodedEvent::from(event.as_bytes().to_vec())
}

pub(crate) fn call(category: Category) -> ApiCalled<'static> {
    let mut called = ApiCalled::new("/api/x", category);
    called.response_time_ms = Some(40);
    called.status_code = Some(200);
    called
}

/// A call that a client reported.
pub(crate) fn reported(
    user: UserId,
    id: &str,
    time: DateTime<Utc>,
    called: ApiCalled<'static>,
) -> Event<'static> {
    Event {
        id: id.to_owned().into(),
        source: "client".into(),
        subject: Some(user),
        time,
        body: Body::ApiCalled(called),
    }
}

pub(crate) fn reset(id: Uuid, user: UserId, month: Month, time: DateTime<Utc>) -> Event<'static> {
    let actor = Actor::new(ActorKind::Admin, "tester");
    Event::by_api(id, user, time, Body::UsageReset(UsageReset { month, reason: "test".into(), actor }))
}

pub(crate) fn plan(
    id: Uuid,
    user: UserId,
    limits: (Option<u64>, Option<u64>),
    time: DateTime<Utc>,
) -> Event<'static> {
    let body = PlanChanged {
        plan_name: PlanName::new("pro").expect("a good name"),
        monthly_api_limit: limits.0,
        analyze_limit: limits.1,
        price_monthly: Money::from_cents(999),
        currency: Currency::USD,
        effective_at: time,
        previous_plan: None,
        reason: None,
        source_event_id: None,
        actor: Actor::new(ActorKind::Admin, "tester"),
    };
    Event::by_api(id, user, time, Body::PlanChanged(body))
}

pub(crate) fn minutes(n: i64) -> TimeDelta {
    TimeDelta::minutes(n)
}
