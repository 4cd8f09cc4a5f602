//! An api and a worker of a test's own, each to be stopped and started again.

use std::time::Duration;

use anyhow::{Context, Result};
use api::{ApiConfig, AppHandle};
use ledger::{Rules, UserId};
use ledger_worker::{WorkerConfig, WorkerError};
use testkit::{Answer, Client, Env, JWT_SECRET, Role, wait_until};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) api: Api,
    worker: Option<Worker>,
}

/// A served api.
pub(crate) struct Api {
    pub(crate) url: String,
    pub(crate) handle: AppHandle,
    serving: JoinHandle<Result<(), api::ApiError>>,
    shutdown: CancellationToken,
}

struct Worker {
    running: JoinHandle<Result<(), WorkerError>>,
    shutdown: CancellationToken,
}

impl World {
    /// An api that decides, and a worker.
    pub(crate) async fn start() -> Result<Self> {
        Self::with(&[]).await
    }

    /// With other settings than those of `dev`.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Result<Self> {
        let mut world = Self::without_worker(settings).await?;
        world.start_worker();
        Ok(world)
    }

    /// Nothing is projected. The log is empty, so the api decides all the same.
    pub(crate) async fn without_worker(settings: &[(&str, &str)]) -> Result<Self> {
        // As in a real process before anything counts: counters that were looked up earlier count nowhere.
        api::operations::metrics::install();
        let env = Env::start().await?;
        let api = Api::start(&env, settings).await?;
        let world = Self { env, api, worker: None };
        world.wait_until_open().await;
        Ok(world)
    }

    pub(crate) fn start_worker(&mut self) {
        let config = WorkerConfig::new(
            self.env.database_url(),
            self.env.connection(),
            testkit::keys(),
            self.env.clock.clone(),
        );
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(ledger_worker::run(config, shutdown.clone()));
        self.worker = Some(Worker { running, shutdown });
    }

    pub(crate) async fn stop_worker(&mut self) -> Result<()> {
        let worker = self.worker.take().context("no worker runs")?;
        worker.shutdown.cancel();
        worker.running.await??;
        Ok(())
    }

    /// Stops the api as a signal would, and starts it again.
    pub(crate) async fn restart_api(mut self, settings: &[(&str, &str)]) -> Result<Self> {
        self.api.stop().await?;
        self.api = Api::start(&self.env, settings).await?;
        Ok(self)
    }

    pub(crate) async fn wait_until_open(&self) {
        wait_until(PATIENCE, || async { self.api.handle.limits.readiness().is_ok() }).await;
    }

    /// Everything that was acknowledged is projected.
    pub(crate) async fn wait_until_projected(&self) -> Result<()> {
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

    pub(crate) fn client(&self, subject: &str, role: Role) -> Result<Client> {
        Ok(Client::new(&self.api.url)?.with_token(self.env.token(subject, role)))
    }

    pub(crate) fn user(&self, subject: &str) -> Result<Client> {
        self.client(subject, Role::User)
    }

    pub(crate) fn service(&self) -> Result<Client> {
        self.client("backend", Role::Service)
    }

    /// One call of the user, as a proxy reports it.
    pub(crate) async fn call(&self, client: &Client, path: &str) -> Result<Answer> {
        let request = client.get("/api/forward-auth").header("X-Forwarded-Uri", path);
        request.header("X-Forwarded-Method", "GET").send().await
    }

    /// Rows, and counted units, of the user's calls of a category.
    pub(crate) async fn rows(&self, subject: &str, category: &str) -> Result<(i64, i64)> {
        self.wait_until_projected().await?;
        let row = sqlx::query_as(
            "SELECT count(*), COALESCE(sum(units) FILTER (WHERE counted), 0) FROM api_usage
             WHERE user_id = (SELECT user_id FROM public.users WHERE external_id = $1) AND category = $2",
        );
        Ok(row.bind(subject).bind(category).fetch_one(self.env.pool()).await?)
    }

    /// All counted units of the user in the summary, and those of analyze.
    pub(crate) async fn summary(&self, subject: &str) -> Result<(i64, i64)> {
        self.wait_until_projected().await?;
        let row = sqlx::query_as(
            "SELECT COALESCE(sum(total_calls), 0)::bigint, COALESCE(sum(analyze_calls), 0)::bigint
             FROM monthly_usage_summary
             WHERE user_id = (SELECT user_id FROM public.users WHERE external_id = $1)",
        );
        Ok(row.bind(subject).fetch_one(self.env.pool()).await?)
    }

    pub(crate) async fn user_id(&self, subject: &str) -> Result<UserId> {
        let id: uuid::Uuid = sqlx::query_scalar("SELECT user_id FROM public.users WHERE external_id = $1")
            .bind(subject)
            .fetch_one(self.env.pool())
            .await?;
        Ok(UserId::new(id))
    }
}

impl Api {
    pub(crate) async fn start(env: &Env, settings: &[(&str, &str)]) -> Result<Self> {
        let (app, handle) = api::build(config(env, settings)?).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(api::serve(listener, app, shutdown.clone(), Duration::from_secs(10)));
        Ok(Self { url, handle, serving, shutdown })
    }

    /// What a signal does: no more requests are taken.
    pub(crate) fn ask_to_stop(&self) {
        self.shutdown.cancel();
    }

    /// Asks, and waits for the end.
    pub(crate) async fn stop(self) -> Result<()> {
        self.ask_to_stop();
        self.serving.await??;
        self.handle.shutdown().await;
        Ok(())
    }
}

/// Everything that `dev` allows, unless `settings` say otherwise.
pub(crate) fn config(env: &Env, settings: &[(&str, &str)]) -> Result<ApiConfig> {
    let get = |name: &str| {
        let set = settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        set.or_else(|| match name {
            "DATABASE_URL" => Some(env.database_url().to_owned()),
            "DATABASE_CONNECTIONS" => Some("6".to_owned()),
            "NATS_URL" => Some(env.nats_url().to_owned()),
            "NATS_MONITOR_URL" => Some(env.monitor_url().to_owned()),
            "NATS_STREAM" => Some(env.stream_name().to_owned()),
            "JWT_SECRET" => Some(JWT_SECRET.to_owned()),
            "ENCRYPTION_KEY" => Some(testkit::ENCRYPTION_KEY.to_owned()),
            "UPGRADE_URL" => Some("https://example.com/upgrade".to_owned()),
            "AUTO_PROVISION" | "SELF_UPGRADE" | "SELF_RESET" | "USER_INGEST" => Some("true".to_owned()),
            _ => None,
        })
    };
    Ok(ApiConfig::read(&get, Rules::default(), env.clock.clone())?)
}
