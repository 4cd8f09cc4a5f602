//! One api process, composed in a line: configuration in, a router and its background work out.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use keys::{Keys, KeysError};
use ledger::IdSource;
use nats::{Log, Publisher, PublisherConfig};
use secrecy::ExposeSecret;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Auth;
use crate::auth::accounts::Users;
use crate::config::{ApiConfig, LogSettings};
use crate::facts::position::Positions;
use crate::facts::watermark::{self, Watermark};
use crate::http::idempotency::Idempotency;
use crate::http::throttle::{self, Throttle};
use crate::ingest::Ingest;
use crate::limits::{self, Limits, LimitsParts};
use crate::metering::complete::Outcomes;
use crate::metering::sealer::Sealer;
use crate::operations::health::Health;
use crate::operations::metrics;
use crate::plans::change::PlanTurns;
use crate::providers::{Providers, ProvidersError};
use crate::router::router;
use crate::state::{AppState, Parts};
use crate::users::export_turns::Exports;

/// How long connections to PostgreSQL are given to end.
const GOODBYE: Duration = Duration::from_secs(5);

/// Why the api could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The database's address cannot be used.
    #[error("DATABASE_URL cannot be used")]
    Database(#[source] store::Error),
    /// The encryption keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Providers of tokens cannot be asked.
    #[error(transparent)]
    Providers(#[from] ProvidersError),
    /// NATS cannot be reached.
    #[error(transparent)]
    Connect(#[from] nats::ConnectError),
    /// The stream could not be made or looked at.
    #[error("the log's stream cannot be used (NATS_STREAM)")]
    Log(#[from] nats::LogError),
    /// The log does not hold what is promised.
    #[error(transparent)]
    UnsafeLog(#[from] nats::UnsafeLog),
    /// Another api serves this database.
    #[error(transparent)]
    Limits(#[from] limits::StartError),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}; set {variable} to a free address of this machine")]
    Listen {
        /// The variable that holds it.
        variable: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The server failed while serving.
    #[error("serving failed")]
    Serve(#[source] std::io::Error),
}

/// A built api: what its handlers share, and its background work, which goes on until [`AppHandle::shutdown`].
pub struct AppHandle {
    /// What the handlers share.
    pub state: AppState,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl AppHandle {
    /// Stops the background work, after what is under way has come to its end. From here on nothing is admitted; requests
    /// that are still in flight are answered 503. The lock against a second api goes last, when everything that was
    /// admitted is in the log.
    pub async fn shutdown(self) {
        self.tasks.close();
        self.shutdown.cancel();
        self.tasks.wait().await;
        self.state.publisher().close().await;
        self.state.limits().release_lock().await;
        // A connection that died without a word is not waited for. PostgreSQL needs no goodbye.
        let _ = tokio::time::timeout(GOODBYE, self.state.pool().close()).await;
    }
}

/// Serves until `shutdown`; then it takes no more requests, answers those in flight, and stops. An answered call was
/// acknowledged before, so there is nothing to lose.
pub async fn run(config: ApiConfig, shutdown: CancellationToken) -> Result<(), ApiError> {
    let (listen_addr, metrics_addr, drain) = (config.listen_addr, config.metrics_addr, config.drain_timeout);
    let recorder = metrics::install();
    let (app, handle) = build(config).await?;
    let listener = listen(listen_addr).await?;
    if let (Some(address), Some(recorder)) = (metrics_addr, recorder) {
        let serving = metrics::serve(address, recorder, handle.shutdown.clone()).await?;
        handle.tasks.spawn(serving);
    }
    tracing::info!(address = %listen_addr, "the api is listening");
    let result = serve(listener, app, shutdown, drain).await;
    handle.shutdown().await;
    result
}

/// Serves `app` on `listener` until `shutdown`; then answers what is in flight, for `drain` at most.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    shutdown: CancellationToken,
    drain: Duration,
) -> Result<(), ApiError> {
    // Answers are small and written whole: waiting for more to send would only delay them.
    let listener = listener.tap_io(|stream| {
        // A connection that is closed already is not worth a word.
        let _ = stream.set_nodelay(true);
    });
    let serving = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        result = serving => result.map_err(ApiError::Serve),
        () = late => {
            tracing::warn!(after_ms = drain.as_millis(), "requests are still in flight; their connections are closed");
            Ok(())
        }
    }
}

/// The router and the work behind it. `config.listen_addr` is not bound: tests serve it where they like.
pub async fn build(config: ApiConfig) -> Result<(Router, AppHandle), ApiError> {
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let clock = config.clock.clone();
    let ids = IdSource::new(clock.clone());
    let pool = store::pool(config.database_url.expose_secret(), config.database_connections)
        .map_err(ApiError::Database)?;
    Box::pin(store::check(config.database_url.expose_secret())).await.map_err(ApiError::Database)?;
    let keys = Keys::start(config.database_url.expose_secret(), &config.keys, &clock).await?;
    let log = open_log(&config.log).await?;
    let stream = log.state().await?;
    let publisher = open_publisher(&log, ids.clone()).await?;
    let users = Users::new(pool.clone(), keys.clone(), clock.clone(), config.auto_provision);
    let watermark = Watermark::default();
    tasks.spawn(watermark::follow(
        pool.clone(),
        watermark.clone(),
        users.clone(),
        keys.clone(),
        shutdown.clone(),
    ));
    let parts = LimitsParts {
        database_url: config.database_url.expose_secret().to_owned(),
        pool: pool.clone(),
        log: log.clone(),
        publisher: publisher.clone(),
        watermark: watermark.clone(),
        clock: clock.clone(),
        ids: ids.clone(),
        enforcement: config.enforcement,
        failure_mode: config.limit_failure_mode,
        max_unprojected: config.max_unprojected,
        upgrade_url: config.upgrade_url.clone(),
    };
    let limits = Limits::start(parts, &tasks, &shutdown).await.inspect_err(|_| shutdown.cancel())?;
    let sealer = Sealer::new(keys.clone(), pool.clone());
    let ingest = ingest(&config, &pool, &sealer, &users, &publisher, &limits);
    let state = AppState::new(Parts {
        auth: Auth::new(&config.jwt, clock.clone()),
        users: users.clone(),
        throttle: Throttle::new(throttle::READS),
        token_tests: Throttle::new(throttle::TOKEN_TESTS),
        token_changes: Throttle::new(throttle::TOKEN_CHANGES),
        providers: Providers::new(config.providers.clone())?,
        exports: Exports::default(),
        positions: Positions::of(config.log.connection.stream.as_str(), stream.created),
        plan_turns: PlanTurns::new(stream.last_seq),
        idempotency: Idempotency::new(pool.clone(), clock.clone(), tasks.clone()),
        health: Health::new(pool.clone(), log.clone(), publisher.clone(), watermark.clone(), limits.clone()),
        limits,
        keys,
        sealer,
        ingest,
        outcomes: Outcomes::default(),
        config,
        pool: pool.clone(),
        log,
        publisher,
        watermark: watermark.clone(),
        clock,
        ids,
        tasks: tasks.clone(),
    });
    tasks.spawn(state.health().clone().keep_looking(shutdown.clone()));
    tasks.spawn(state.idempotency().clone().clean(shutdown.clone()));
    let app = router(state.clone());
    Ok((app, AppHandle { state, shutdown, tasks }))
}

/// The log, after proof that an acknowledgement by it means "on disk".
async fn open_log(settings: &LogSettings) -> Result<Log, ApiError> {
    let log = nats::connect(&settings.connection_of("usage-ledger api")).await?;
    log.ensure_stream(settings.replicas).await?;
    log.verify(settings.allow_unsafe).await?;
    Ok(log)
}

/// Writes to the log, under a new id at every start.
async fn open_publisher(log: &Log, ids: IdSource) -> Result<Publisher, nats::ConnectError> {
    Publisher::start(log, PublisherConfig::default(), move || ids.random_id()).await
}

fn ingest(
    config: &ApiConfig,
    pool: &PgPool,
    sealer: &Sealer,
    users: &Users,
    publisher: &Publisher,
    limits: &Limits,
) -> Ingest {
    let (pool, sealer, users, publisher) = (pool.clone(), sealer.clone(), users.clone(), publisher.clone());
    let (clock, rules) = (config.clock.clone(), config.rules.clone());
    Ingest::new(pool, sealer, users, publisher, clock, rules, Some(limits.clone()))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ApiError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| ApiError::Listen { variable: "LISTEN_ADDR", address, source })
}
