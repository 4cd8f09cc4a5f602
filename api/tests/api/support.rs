//! An api of a test's own.

use std::time::Duration;

use anyhow::{Context, Result};
use api::config::{Enforcement, LimitFailureMode};
use api::{ApiConfig, AppHandle};
use serde_json::Value;
use testkit::{Answer, Client, Env, JWT_SECRET, Role};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A served api on a database and a stream of its own. Its work ends with the test's runtime.
pub(crate) struct Api {
    pub(crate) env: Env,
    pub(crate) url: String,
    pub(crate) handle: AppHandle,
    /// The router, as it shows itself for debugging.
    pub(crate) shown: String,
    serving: tokio::task::JoinHandle<Result<(), api::ApiError>>,
    shutdown: CancellationToken,
}

impl Api {
    /// With everything that `dev` allows.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(|_| {}).await
    }

    /// With the configuration changed.
    pub(crate) async fn start_with(change: impl FnOnce(&mut ApiConfig)) -> Result<Self> {
        Self::start_in(Env::start().await?, change).await
    }

    /// On the database and stream of `env`.
    pub(crate) async fn start_in(env: Env, change: impl FnOnce(&mut ApiConfig)) -> Result<Self> {
        let mut config = config(&env)?;
        change(&mut config);
        let (app, handle) = api::build(config).await?;
        let shown = format!("{app:?}");
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(api::serve(listener, app, shutdown.clone(), Duration::from_secs(10)));
        Ok(Self { env, url, handle, shown, serving, shutdown })
    }

    /// Stops it as a signal would, and gives back database and stream.
    pub(crate) async fn stop(self) -> Result<Env> {
        self.shutdown.cancel();
        self.serving.await??;
        self.handle.shutdown().await;
        Ok(self.env)
    }

    /// Without a token.
    pub(crate) fn anonymous(&self) -> Result<Client> {
        Client::new(&self.url)
    }

    /// With a token of this role for `<user>`.
    pub(crate) fn client(&self, subject: &str, role: Role) -> Result<Client> {
        Ok(self.anonymous()?.with_token(self.env.token(subject, role)))
    }

    /// As a host's backend.
    pub(crate) fn service(&self) -> Result<Client> {
        self.client("backend", Role::Service)
    }
}

/// The configuration of a test's api: everything that `dev` allows, decided strictly.
pub(crate) fn config(env: &Env) -> Result<ApiConfig> {
    let get = |name: &str| match name {
        "DATABASE_URL" => Some(env.database_url().to_owned()),
        "DATABASE_CONNECTIONS" => Some("6".to_owned()),
        "NATS_URL" => Some(env.nats_url().to_owned()),
        "NATS_MONITOR_URL" => Some(env.monitor_url().to_owned()),
        "NATS_STREAM" => Some(env.stream_name().to_owned()),
        "JWT_SECRET" => Some(JWT_SECRET.to_owned()),
        "ENCRYPTION_KEY" => Some(testkit::ENCRYPTION_KEY.to_owned()),
        "AUTO_PROVISION" | "SELF_UPGRADE" | "SELF_RESET" | "USER_INGEST" => Some("true".to_owned()),
        _ => None,
    };
    let config = ApiConfig::read(&get, ledger::Rules::default(), env.clock.clone())?;
    assert_eq!(config.enforcement, Enforcement::Enforce);
    assert_eq!(config.limit_failure_mode, LimitFailureMode::Closed);
    Ok(config)
}

/// What every problem must be: the media type, all members, the request's own id. Answers the body.
#[track_caller]
pub(crate) fn assert_problem(answer: &Answer, status: u16, code: &str) -> Value {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{text}");
    let body = answer.json().expect("a problem is JSON");
    assert_eq!(body["code"], code, "{text}");
    assert_eq!(body["status"], status, "{text}");
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"), "{text}");
    for member in ["type", "title", "detail", "instance"] {
        assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "no {member}: {text}");
    }
    body
}

/// The pointers and parameters that a 422 names.
pub(crate) fn named(body: &Value) -> Vec<String> {
    let errors = body["errors"].as_array().cloned().unwrap_or_default();
    let name = |error: &Value| error["pointer"].as_str().or(error["parameter"].as_str()).map(str::to_owned);
    errors.iter().filter_map(name).collect()
}

/// The `user_id` of an account's JSON.
pub(crate) fn user_id(answer: &Answer) -> Result<String> {
    Ok(answer.json()?["user_id"].as_str().context("no user_id")?.to_owned())
}
