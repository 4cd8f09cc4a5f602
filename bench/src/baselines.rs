//! Baselines that the ledger is held against, each as fast as its idea allows: an HTTP handler that does nothing, one
//! that publishes every event by itself, and the design that counts in a trigger.

use std::sync::Arc;

use anyhow::Context as _;
use async_nats::jetstream;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use clap::ValueEnum;
use events::event_type::API_CALLED;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::net::TcpListener;
use uuid::Uuid;

/// Connections of the trigger design's pool; more made it slower on two cores.
const POOL_CONNECTIONS: u32 = 16;

/// Baseline that a process serves.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Baseline {
    /// `204`, nothing else.
    Noop,
    /// One JetStream message an event, acknowledged before the answer.
    PublishEach,
    /// A limit `SELECT` and an `INSERT` whose trigger keeps the month's summary.
    Trigger,
}

/// Serves one baseline on `listener` until the process is stopped.
pub(crate) async fn serve(baseline: Baseline, listener: TcpListener) -> anyhow::Result<()> {
    let router = match baseline {
        Baseline::Noop => Router::new().route("/track", get(async || StatusCode::NO_CONTENT)),
        Baseline::PublishEach => publish_each().await?,
        Baseline::Trigger => trigger().await?,
    };
    axum::serve(listener, router).await.context("serving a baseline")
}

/// The tables of the trigger design, as they are usually written.
pub(crate) const TRIGGER_SCHEMA: &str = r"
DROP SCHEMA IF EXISTS trigger_design CASCADE;
CREATE SCHEMA trigger_design;
CREATE TABLE trigger_design.limits (user_id UUID PRIMARY KEY, monthly_api_limit BIGINT NOT NULL);
CREATE TABLE trigger_design.summary (
    user_id UUID NOT NULL, month_year TEXT NOT NULL, total_calls BIGINT NOT NULL, last_updated TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, month_year)
) WITH (fillfactor = 70);
CREATE TABLE trigger_design.api_usage (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(), user_id UUID NOT NULL, endpoint TEXT NOT NULL, method TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(), month_year TEXT NOT NULL DEFAULT to_char(now(), 'YYYY-MM')
);
CREATE INDEX ON trigger_design.api_usage (user_id, created_at);
CREATE FUNCTION trigger_design.count_call() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO trigger_design.summary VALUES (NEW.user_id, NEW.month_year, 1, now())
    ON CONFLICT (user_id, month_year)
    DO UPDATE SET total_calls = trigger_design.summary.total_calls + 1, last_updated = now();
    RETURN NEW;
END
$$;
CREATE TRIGGER count_call AFTER INSERT ON trigger_design.api_usage
    FOR EACH ROW EXECUTE FUNCTION trigger_design.count_call();
";

#[derive(Clone)]
struct PublishEach {
    context: jetstream::Context,
    authentication: Arc<Authentication>,
}

async fn publish_each() -> anyhow::Result<Router> {
    let client = nats::client(&variable("NATS_URL")?).await.context("connecting to NATS")?;
    let context = jetstream::new(client);
    let stream = jetstream::stream::Config {
        name: "BENCH_EACH".to_owned(),
        subjects: vec!["bench_each.>".to_owned()],
        ..Default::default()
    };
    context.get_or_create_stream(stream).await.context("creating the stream")?;
    let state = PublishEach { context, authentication: Arc::new(Authentication::from_env()?) };
    Ok(Router::new().route("/track", get(track_by_publish)).with_state(state))
}

async fn track_by_publish(State(state): State<PublishEach>, headers: HeaderMap) -> StatusCode {
    let Some(user) = state.authentication.user(&headers) else { return StatusCode::UNAUTHORIZED };
    let event = format!(
        r#"{{"specversion":"1.0","id":"{}","source":"bench","type":"{API_CALLED}","subject":"{user}","time":"2026-11-24T00:00:00.000000Z","data":{{"endpoint":"/api/items","method":"GET","units":1,"category":"other","counted":true}}}}"#,
        Uuid::from_u128(rand_id())
    );
    let Ok(ack) = state.context.publish("bench_each.events", event.into()).await else {
        return StatusCode::SERVICE_UNAVAILABLE;
    };
    if ack.await.is_ok() { StatusCode::NO_CONTENT } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[derive(Clone)]
struct Trigger {
    pool: PgPool,
    authentication: Arc<Authentication>,
}

async fn trigger() -> anyhow::Result<Router> {
    let options: PgConnectOptions = variable("DATABASE_URL")?.parse()?;
    let pool = PgPoolOptions::new().max_connections(POOL_CONNECTIONS).connect_with(options).await?;
    let state = Trigger { pool, authentication: Arc::new(Authentication::from_env()?) };
    Ok(Router::new().route("/track", get(track_by_trigger)).with_state(state))
}

async fn track_by_trigger(State(state): State<Trigger>, headers: HeaderMap) -> StatusCode {
    let Some(user) = state.authentication.user(&headers) else { return StatusCode::UNAUTHORIZED };
    match call_by_trigger(&state.pool, user).await {
        Ok(true) => StatusCode::NO_CONTENT,
        Ok(false) => StatusCode::TOO_MANY_REQUESTS,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn call_by_trigger(pool: &PgPool, user: Uuid) -> sqlx::Result<bool> {
    let mut connection = pool.acquire().await?;
    let allowed: bool = sqlx::query_scalar(
        "SELECT COALESCE(s.total_calls, 0) < l.monthly_api_limit
         FROM trigger_design.limits l
         LEFT JOIN trigger_design.summary s ON s.user_id = l.user_id AND s.month_year = to_char(now(), 'YYYY-MM')
         WHERE l.user_id = $1",
    )
    .bind(user)
    .fetch_one(&mut *connection)
    .await?;
    if allowed {
        sqlx::query("INSERT INTO trigger_design.api_usage (user_id, endpoint, method) VALUES ($1, '/api/items', 'GET')")
            .bind(user)
            .execute(&mut *connection)
            .await?;
    }
    Ok(allowed)
}

/// The bearer token's check, the same in every baseline that has one.
struct Authentication {
    key: DecodingKey,
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    sub: Uuid,
}

impl Authentication {
    fn from_env() -> anyhow::Result<Self> {
        let secret = variable("JWT_SECRET")?;
        Ok(Self {
            key: DecodingKey::from_secret(secret.as_bytes())?,
            validation: Validation::new(Algorithm::HS256),
        })
    }

    fn user(&self, headers: &HeaderMap) -> Option<Uuid> {
        let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation).ok().map(|token| token.claims.sub)
    }
}

/// Unique within a run, which is all that this baseline needs.
fn rand_id() -> u128 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u128::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A variable that the orchestrating process sets.
pub(crate) fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}
