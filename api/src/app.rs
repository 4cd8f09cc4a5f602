//! One api process, composed in a line: configuration in, a router and its background work out.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use data_keys::Keys;
use ledger::{Clock, IdSource};
use nats::{Log, Publisher, PublisherConfig};
use outbound::github::GitHub;
use outbound::providers::Providers;
use secrecy::ExposeSecret;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::accounts::sign_in::{Backoff, CODES_AN_HOUR, GitHubSignIn, Hasher, PASSWORDS_AN_HOUR, PageTokens};
use crate::accounts::{self, AccountLog, ApiKeys, Registry, SignIn};
use crate::auth::{Accounts, Auth, Credentials, KnownKeys, KnownSessions};
use crate::config::{ApiConfig, LogSettings};
use crate::error::ApiError;
use crate::facts::watermark::{self, AccountNews};
use crate::facts::{Positions, Projections, Turns, Watermark, Writer};
use crate::http::idempotency::Idempotency;
use crate::http::serve::serve;
use crate::http::site::Site;
use crate::http::throttle::{self, Throttle};
use crate::ingest::{Ingest, Intake};
use crate::limits::{Limits, LimitsParts};
use crate::metering::sealer::Sealer;
use crate::metering::{CallTurns, Metering, OwnCalls, RecentCalls, Requests};
use crate::operations::{Health, metrics};
use crate::plans::{LastChange, Plans};
use crate::router::router;
use crate::state::{AppState, Capabilities};
use crate::tokens::Tokens;
use crate::usage::Usage;
use crate::users::{ExportTurns, Users};
use crate::{metering, plans, tokens, usage, users};

/// Connections beside `DATABASE_CONNECTIONS`: one reads counts, one what was in force earlier, one looks at the health.
const VITAL_CONNECTIONS: u32 = 3;
/// Time that connections to PostgreSQL are given to end.
const GOODBYE: Duration = Duration::from_secs(5);

/// A built api: its resources, and its background work, which goes on until [`AppHandle::shutdown`].
pub struct AppHandle {
    pools: [PgPool; 2],
    /// The log.
    pub log: Log,
    /// Writes events to the log.
    pub publisher: Publisher,
    /// Progress of the projections.
    pub watermark: Watermark,
    /// Decides about calls.
    pub limits: Limits,
    /// Users' data keys.
    pub keys: Keys,
    /// Writes events of ours.
    pub writer: Writer,
    /// The capabilities.
    pub state: AppState,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl AppHandle {
    /// Stops the background work, after what is under way has come to its end. From here on nothing is admitted;
    /// requests that are still in flight are answered 503. The lock against a second api goes last, when everything
    /// that was admitted is in the log.
    pub async fn shutdown(self) {
        self.tasks.close();
        self.shutdown.cancel();
        self.tasks.wait().await;
        self.publisher.close().await;
        self.limits.release_lock().await;
        // A connection that died without a word is not waited for. PostgreSQL needs no goodbye.
        let goodbyes = futures_util::future::join_all(self.pools.iter().map(PgPool::close));
        let _ = tokio::time::timeout(GOODBYE, goodbyes).await;
    }
}

/// Serves until `shutdown`; then it takes no more requests, answers those in flight, and stops. An answered call was
/// acknowledged before, so there is nothing to lose.
pub async fn run(config: ApiConfig, shutdown: CancellationToken) -> Result<(), ApiError> {
    let (listen_addr, metrics_addr, drain) = (config.listen_addr, config.metrics_addr, config.drain_timeout);
    let bounds = config.bounds();
    let recorder = metrics::install();
    let (app, handle) = Box::pin(build(config)).await?;
    let listener = listen(listen_addr).await?;
    if let (Some(address), Some(recorder)) = (metrics_addr, recorder) {
        let serving = metrics::serve(address, recorder, handle.shutdown.clone()).await?;
        handle.tasks.spawn(serving);
    }
    tracing::info!(address = %listen_addr, "the api is listening");
    serve(listener, app, bounds, shutdown, drain).await;
    handle.shutdown().await;
    Ok(())
}

/// The router and the work behind it. `config.listen_addr` is not bound: tests serve it where they like.
pub async fn build(config: ApiConfig) -> Result<(Router, AppHandle), ApiError> {
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let base = Base::open(config).await?;
    let accounts = Accounts::new(
        base.pool.clone(),
        base.data_keys.clone(),
        base.clock.clone(),
        base.config.auto_provision,
    );
    let credentials = base.credentials(accounts.clone());
    // What cannot be told now is told by the first of the looks that follow.
    let _ = credentials.look().await;
    tasks.spawn(credentials.clone().follow(shutdown.clone()));
    tasks.spawn(base.follow(credentials.clone(), shutdown.clone()));
    let limits = base.limits(&tasks, &shutdown).await.inspect_err(|_| shutdown.cancel())?;
    // Under the lock: the api before this one may have written until it let go of it.
    let last_seq = base.log.state().await.inspect_err(|_| shutdown.cancel())?.last_seq;
    let sealer = Sealer::new(base.data_keys.clone(), base.pool.clone());
    let own_calls = base.own_calls(&tasks, &shutdown);
    let state = AppState::new(base.capabilities(&credentials, &limits, &sealer, last_seq, &tasks)?);
    tasks.spawn(state.health.clone().keep_looking(shutdown.clone()));
    tasks.spawn(state.auth.refused().clone().tell(
        base.publisher.clone(),
        base.ids.clone(),
        shutdown.clone(),
    ));
    tasks.spawn(state.idempotency.clone().clean(shutdown.clone()));
    tasks.spawn(state.api_keys.registry().clone().log_revocations(shutdown.clone()));
    let app = router(state.clone(), own_calls, base.ids.clone(), &base.site, &base.config);
    let Base { pool, vital_pool, data_keys: keys, log, publisher, watermark, writer, .. } = base;
    let pools = [pool, vital_pool];
    Ok((app, AppHandle { pools, log, publisher, watermark, limits, keys, writer, state, shutdown, tasks }))
}

/// The resources that all else is made of.
struct Base {
    config: ApiConfig,
    pool: PgPool,
    /// For what decides about calls, and says whether it can: no request's reads stand in its way.
    vital_pool: PgPool,
    data_keys: Keys,
    log: Log,
    publisher: Publisher,
    clock: Clock,
    ids: IdSource,
    watermark: Watermark,
    projections: Projections,
    writer: Writer,
    site: Site,
    /// Paces what costs much to read, of all capabilities together.
    reads: Throttle,
    /// Paces what users change for themselves, of all capabilities together.
    own_changes: Throttle,
}

impl Base {
    async fn open(config: ApiConfig) -> Result<Self, ApiError> {
        let database_url = config.database_url.expose_secret();
        let clock = config.clock.clone();
        let ids = IdSource::new(clock.clone());
        let pool = store::pool(database_url, config.database_connections).map_err(ApiError::Database)?;
        let vital_pool = store::pool(database_url, VITAL_CONNECTIONS).map_err(ApiError::Database)?;
        Box::pin(store::check(database_url)).await.map_err(ApiError::Database)?;
        let data_keys = Keys::start(database_url, &config.keys, &clock).await?;
        let log = open_log(&config.log).await?;
        let stream = log.state().await?;
        let publisher = open_publisher(&log, ids.clone()).await?;
        let watermark = Watermark::default();
        let positions = Positions::of(config.log.connection.stream.as_str(), stream.created);
        Ok(Self {
            projections: Projections::new(
                pool.clone(),
                log.clone(),
                publisher.clone(),
                watermark.clone(),
                positions,
            ),
            writer: Writer::new(publisher.clone(), watermark.clone(), positions, clock.clone(), ids.clone()),
            site: Site::new(config.public_url.clone()),
            reads: Throttle::new(throttle::READS),
            own_changes: Throttle::new(throttle::OWN_CHANGES),
            config,
            pool,
            vital_pool,
            data_keys,
            log,
            publisher,
            clock,
            ids,
            watermark,
        })
    }

    /// Keeps the watermark up to date, and the caches of accounts, API keys and data keys.
    fn follow(
        &self,
        credentials: Credentials,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let data_keys = self.data_keys.clone();
        let tell = move |news: AccountNews<'_>| match news {
            AccountNews::Changed(account) => {
                data_keys.heard(account);
                credentials.accounts().heard(account);
            }
            AccountNews::CredentialChanged(change) => credentials.heard(change),
            AccountNews::Missed => {
                credentials.forget_all();
                data_keys.forget_all();
            }
        };
        watermark::follow(self.pool.clone(), self.watermark.clone(), tell, shutdown)
    }

    async fn limits(&self, tasks: &TaskTracker, shutdown: &CancellationToken) -> Result<Limits, ApiError> {
        let parts = LimitsParts {
            database_url: self.config.database_url.expose_secret().to_owned(),
            pool: self.vital_pool.clone(),
            log: self.log.clone(),
            publisher: self.publisher.clone(),
            watermark: self.watermark.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            enforcement: self.config.enforcement,
            failure_mode: self.config.limit_failure_mode,
            max_unprojected: self.config.max_unprojected,
            max_lag: self.config.max_lag,
            upgrade_url: self.config.upgrade_url.clone(),
        };
        Ok(Limits::start(parts, tasks, shutdown).await?)
    }

    fn own_calls(&self, tasks: &TaskTracker, shutdown: &CancellationToken) -> OwnCalls {
        let (publisher, clock, ids) = (self.publisher.clone(), self.clock.clone(), self.ids.clone());
        OwnCalls::start(publisher, clock, ids, tasks, shutdown.clone())
    }

    fn capabilities(
        &self,
        credentials: &Credentials,
        limits: &Limits,
        sealer: &Sealer,
        last_seq: u64,
        tasks: &TaskTracker,
    ) -> Result<Capabilities, ApiError> {
        let auth = self.auth(credentials)?;
        let api_keys = self.api_keys(credentials, sealer);
        Ok(Capabilities {
            sign_in: self.sign_in(&auth, &api_keys, sealer)?,
            auth,
            api_keys,
            idempotency: Idempotency::new(self.pool.clone(), self.clock.clone(), tasks.clone()),
            projections: self.projections.clone(),
            users: self.users(credentials.accounts(), tasks),
            plans: self.plans(limits, last_seq),
            usage: self.usage(limits),
            metering: self.metering(limits, sealer, tasks),
            ingest: self.ingest(credentials.accounts(), limits, sealer),
            tokens: self.tokens(sealer)?,
            health: Health::new(
                self.vital_pool.clone(),
                self.log.clone(),
                self.publisher.clone(),
                self.watermark.clone(),
                limits.clone(),
            ),
        })
    }

    fn credentials(&self, accounts: Accounts) -> Credentials {
        let keys = KnownKeys::new(self.pool.clone(), self.config.environment.clone());
        let sessions = KnownSessions::new(self.pool.clone(), self.config.sign_in.sessions);
        Credentials::new(self.pool.clone(), self.clock.clone(), accounts, keys, sessions)
    }

    fn api_keys(&self, credentials: &Credentials, sealer: &Sealer) -> ApiKeys {
        let environment = self.config.environment.clone();
        let registry = Registry::new(self.pool.clone(), self.writer.clone(), environment);
        ApiKeys::new(accounts::Parts {
            pool: self.pool.clone(),
            registry: registry.serving(credentials.keys().clone(), sealer.clone()),
            writer: self.writer.clone(),
            changes: Throttle::new(throttle::KEY_CHANGES),
        })
    }

    fn sign_in(&self, auth: &Auth, keys: &ApiKeys, sealer: &Sealer) -> Result<SignIn, ApiError> {
        let page_tokens = PageTokens { settings: self.config.jwt.clone(), keys: self.data_keys.clone() };
        let github = |settings| {
            let back: Option<Url> = self.site.link("/api/auth/github/callback").parse().ok();
            let github = GitHub::new(settings)?;
            Ok::<_, ApiError>(back.map(|redirect| GitHubSignIn { github, redirect }))
        };
        let github = self.config.sign_in.github.as_ref().map(github).transpose()?.flatten();
        Ok(SignIn::new(accounts::sign_in::Parts {
            pool: self.pool.clone(),
            credentials: auth.credentials().clone(),
            auth: auth.clone(),
            keys: keys.clone(),
            page_tokens,
            hasher: Hasher::new(self.config.sign_in.password_hash),
            tries: Backoff::new(PASSWORDS_AN_HOUR),
            codes: Backoff::new(CODES_AN_HOUR),
            sealer: sealer.clone(),
            site: self.site.clone(),
            log: AccountLog::new(self.writer.clone(), Some(sealer.clone())),
            registration: self.config.sign_in.registration,
            github,
            sign_ins: Throttle::new(throttle::SIGN_INS),
            starts: Throttle::new(throttle::STARTS),
            changes: Throttle::new(throttle::ACCOUNT_CHANGES),
        }))
    }

    fn auth(&self, credentials: &Credentials) -> Result<Auth, ApiError> {
        Ok(Auth::new(
            &self.config.jwt,
            self.data_keys.clone(),
            credentials.clone(),
            self.site.clone(),
            self.config.trusted_proxies.clone(),
            self.clock.clone(),
        )?)
    }

    fn users(&self, accounts: &Accounts, tasks: &TaskTracker) -> Users {
        Users::new(users::Parts {
            accounts: accounts.clone(),
            data_keys: self.data_keys.clone(),
            projections: self.projections.clone(),
            writer: self.writer.clone(),
            reads: self.reads.clone(),
            exports: ExportTurns::default(),
            tasks: tasks.clone(),
        })
    }

    fn plans(&self, limits: &Limits, last_seq: u64) -> Plans {
        Plans::new(plans::Parts {
            projections: self.projections.clone(),
            writer: self.writer.clone(),
            limits: limits.clone(),
            turns: Turns::new(LastChange::before(last_seq)),
            own_changes: self.own_changes.clone(),
            on_sale: plans::OnSale::default(),
            self_upgrade: self.config.self_upgrade,
            upgrade_url: self.config.upgrade_url.clone(),
        })
    }

    fn usage(&self, limits: &Limits) -> Usage {
        Usage::new(usage::Parts {
            projections: self.projections.clone(),
            writer: self.writer.clone(),
            limits: limits.clone(),
            reads: self.reads.clone(),
            own_changes: self.own_changes.clone(),
            self_reset: self.config.self_reset,
        })
    }

    fn metering(&self, limits: &Limits, sealer: &Sealer, tasks: &TaskTracker) -> Metering {
        if self.config.forward_auth.id_header.is_some() && self.config.trusted_proxies.is_empty() {
            tracing::warn!("FORWARD_AUTH_ID_HEADER is set and nobody is believed: set TRUSTED_PROXIES");
        }
        Metering::new(metering::Parts {
            rules: self.config.rules.clone(),
            enforcement: self.config.enforcement,
            limits: limits.clone(),
            sealer: sealer.clone(),
            projections: self.projections.clone(),
            writer: self.writer.clone(),
            recent: RecentCalls::default(),
            turns: CallTurns::default(),
            forward_auth: self.config.forward_auth.clone(),
            proxies: self.config.trusted_proxies.clone(),
            requests: Requests::default(),
            tasks: tasks.clone(),
        })
    }

    fn ingest(&self, accounts: &Accounts, limits: &Limits, sealer: &Sealer) -> Ingest {
        let intake = Intake::new(
            self.pool.clone(),
            sealer.clone(),
            accounts.clone(),
            self.publisher.clone(),
            self.clock.clone(),
            self.config.rules.clone(),
            Some(limits.clone()),
        );
        Ingest::new(intake, self.writer.clone(), self.config.user_ingest)
    }

    fn tokens(&self, sealer: &Sealer) -> Result<Tokens, ApiError> {
        Ok(Tokens::new(tokens::Parts {
            projections: self.projections.clone(),
            writer: self.writer.clone(),
            sealer: sealer.clone(),
            providers: Providers::new(self.config.providers.clone())?,
            reads: self.reads.clone(),
            tests: Throttle::new(throttle::TOKEN_TESTS),
            changes: Throttle::new(throttle::TOKEN_CHANGES),
        }))
    }
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

async fn listen(address: SocketAddr) -> Result<TcpListener, ApiError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| ApiError::Listen { variable: "LISTEN_ADDR", address, source })
}
