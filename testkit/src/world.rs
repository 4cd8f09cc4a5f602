//! An api and a worker of a test's own, each to be stopped and started again.

use std::time::Duration;

use anyhow::{Context, Result};
use api::config::encoded_slash;
use api::{ApiConfig, AppHandle};
use ledger::Rules;
use ledger_worker::{WorkerConfig, WorkerError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Client, ENCRYPTION_KEY, Env, JWT_SECRET, Role, wait_until};

/// Longest time that a test waits for what an api or a worker does.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Longest time that an api which is stopped waits for requests in flight.
const DRAIN: Duration = Duration::from_secs(10);

/// An api and, where asked for, a worker on a database and a stream of their own.
pub struct World {
    /// Database, stream, clock and ids.
    pub env: Env,
    /// The api.
    pub api: Api,
    worker: Option<Worker>,
}

/// A served api. Its work ends with the test's runtime, if it is not stopped before.
pub struct Api {
    /// `http://host:port`.
    pub url: String,
    /// Its resources.
    pub handle: AppHandle,
    /// The router, as it shows itself for debugging.
    pub shown: String,
    serving: JoinHandle<()>,
    shutdown: CancellationToken,
}

/// A running worker. Its work ends with the test's runtime, if it is not stopped before.
pub struct Worker {
    running: JoinHandle<Result<(), WorkerError>>,
    shutdown: CancellationToken,
}

impl World {
    /// An api that decides, and a worker.
    pub async fn start() -> Result<Self> {
        Self::with(&[]).await
    }

    /// With other settings than those of [`Env::api_config`].
    pub async fn with(settings: &[(&str, &str)]) -> Result<Self> {
        let mut world = Self::without_worker(settings).await?;
        world.start_worker();
        Ok(world)
    }

    /// Nothing is projected. The log is empty, so the api decides all the same.
    pub async fn without_worker(settings: &[(&str, &str)]) -> Result<Self> {
        Self::in_env(Env::start().await?, settings).await
    }

    /// In surroundings that are there already. Nothing is projected.
    pub async fn in_env(env: Env, settings: &[(&str, &str)]) -> Result<Self> {
        // As in a real process before anything counts: counters that were looked up earlier count nowhere.
        api::operations::metrics::install();
        let api = Api::start(&env, settings).await?;
        let world = Self { env, api, worker: None };
        world.wait_until_open().await;
        Ok(world)
    }

    /// Starts a worker; the one before must have been stopped.
    pub fn start_worker(&mut self) {
        self.worker = Some(Worker::start(self.env.worker_config()));
    }

    /// Stops the worker as a signal would.
    pub async fn stop_worker(&mut self) -> Result<()> {
        self.worker.take().context("no worker runs")?.stop().await
    }

    /// Stops the api as a signal would, and starts it again.
    pub async fn restart_api(mut self, settings: &[(&str, &str)]) -> Result<Self> {
        self.api.stop().await?;
        self.api = Api::start(&self.env, settings).await?;
        Ok(self)
    }

    /// Waits until the api decides about calls.
    pub async fn wait_until_open(&self) {
        wait_until(PATIENCE, || async { self.api.handle.limits.readiness().is_ok() }).await;
    }

    /// Waits until everything that was acknowledged is projected.
    pub async fn wait_until_projected(&self) -> Result<()> {
        let last_seq = self.api.handle.log.state().await?.last_seq;
        if !self.api.handle.watermark.wait_for(last_seq, PATIENCE).await {
            let workers: Vec<(String, Option<String>, i64)> =
                sqlx::query_as("SELECT state, reason, seq FROM public.projector_status")
                    .fetch_all(self.env.pool())
                    .await?;
            anyhow::bail!("{last_seq} is not projected; the workers say {workers:?}");
        }
        Ok(())
    }

    /// A client without a bearer token.
    pub fn anonymous(&self) -> Result<Client> {
        Client::new(&self.api.url)
    }

    /// A client with a bearer token of this role.
    pub fn client(&self, subject: &str, role: Role) -> Result<Client> {
        Ok(self.anonymous()?.with_token(self.env.token(subject, role)))
    }

    /// A user's own client.
    pub fn user(&self, subject: &str) -> Result<Client> {
        self.client(subject, Role::User)
    }

    /// A host's backend.
    pub fn service(&self) -> Result<Client> {
        self.client("backend", Role::Service)
    }
}

impl Api {
    /// Builds and serves one in `env`.
    pub async fn start(env: &Env, settings: &[(&str, &str)]) -> Result<Self> {
        let config = env.api_config(settings)?;
        let bounds = config.bounds();
        let (app, handle) = Box::pin(api::build(config)).await?;
        let shown = format!("{app:?}");
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(api::serve(listener, app, bounds, shutdown.clone(), DRAIN));
        Ok(Self { url, handle, shown, serving, shutdown })
    }

    /// Does what a signal does: no more requests are taken.
    pub fn ask_to_stop(&self) {
        self.shutdown.cancel();
    }

    /// Asks, and waits for the end.
    pub async fn stop(self) -> Result<()> {
        self.ask_to_stop();
        self.serving.await?;
        self.handle.shutdown().await;
        Ok(())
    }
}

impl Worker {
    /// Runs one.
    pub fn start(config: WorkerConfig) -> Self {
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(Box::pin(ledger_worker::run(config, shutdown.clone())));
        Self { running, shutdown }
    }

    /// Stops it as a signal would, and waits for the end.
    pub async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.running.await??)
    }
}

impl Env {
    /// The configuration of an api in these surroundings: everything that `dev` allows, decided strictly, unless the
    /// settings say otherwise.
    pub fn api_config(&self, settings: &[(&str, &str)]) -> Result<ApiConfig> {
        let get = |name: &str| {
            let set = settings.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            let usual = match name {
                "DATABASE_URL" => self.database_url(),
                "DATABASE_CONNECTIONS" => "6",
                "NATS_URL" => self.nats_url(),
                "NATS_MONITOR_URL" => self.monitor_url(),
                "NATS_STREAM" => self.stream_name(),
                "JWT_SECRET" => JWT_SECRET,
                "ENCRYPTION_KEY" => ENCRYPTION_KEY,
                // As little work as there may be: a build for tests is slow at it.
                "PASSWORD_HASH" => "m=8192,t=1,p=1",
                // What a test writes without a worker is behind for as long as the test takes.
                "MAX_LAG" => "1h",
                "UPGRADE_URL" => "https://example.com/upgrade",
                "AUTO_PROVISION" | "SELF_UPGRADE" | "SELF_RESET" | "USER_INGEST" => "true",
                _ => return set.map(str::to_owned),
            };
            Some(set.unwrap_or(usual).to_owned())
        };
        let rules = Rules::default().with_encoded_slash(encoded_slash(&get)?);
        Ok(ApiConfig::read(&get, rules, self.clock.clone())?)
    }

    /// The configuration of a worker in these surroundings.
    pub fn worker_config(&self) -> WorkerConfig {
        WorkerConfig::new(self.database_url(), self.connection(), crate::keys(), self.clock.clone())
    }
}
