//! Cost of the layers and of authentication for a request, without sockets: nanoseconds per call of a route that does
//! nothing, bare, behind the envelope, and with its caller authenticated.
//!
//! `cargo run --release -p api --example overhead`, with the variables of an api (`DATABASE_URL`, `NATS_URL`, …).

use std::time::{Duration, Instant};

use anyhow::Result;
use api::auth::{Mint, Role, User, mint, needs};
use api::http::envelope::Envelope;
use api::{ApiConfig, AppState};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::routing::get;
use secrecy::ExposeSecret;
use tower::ServiceExt;

const CALLS: u32 = 200_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let config =
        ApiConfig::read(&|name| std::env::var(name).ok(), ledger::Rules::default(), ledger::Clock::system())?;
    let subject = "overhead".parse()?;
    let now = config.clock.now();
    let jwt = config.jwt.clone();
    let ids = ledger::IdSource::new(config.clock.clone());
    let (_, handle) = api::build(config).await?;
    let asked = Mint { subject: &subject, role: Role::User, scopes: None, ttl: Duration::from_hours(1), now };
    let token = mint(&jwt, &handle.keys, &asked)?;
    let state = handle.state.clone();
    let layer = Envelope::new(ids, false);
    let bare = Router::new().route("/", get(async || StatusCode::NO_CONTENT));
    let enveloped = bare.clone().layer(layer.clone());
    let authenticated: Router = Router::<AppState>::new()
        .route("/", get(async |_: User<needs::NoKey>| StatusCode::NO_CONTENT))
        .layer(layer)
        .with_state(state);
    for (name, app) in [("bare", bare), ("envelope", enveloped), ("envelope, authenticated", authenticated)] {
        // The first round fills the caches.
        for round in 0..2 {
            let begun = Instant::now();
            for _ in 0..CALLS {
                let request = Request::get("/")
                    .header(header::AUTHORIZATION, format!("Bearer {}", token.expose_secret()))
                    .body(Body::empty())?;
                let answer = app.clone().oneshot(request).await?;
                anyhow::ensure!(answer.status() == StatusCode::NO_CONTENT, "{}", answer.status());
            }
            if round == 1 {
                println!("{name}: {} ns a call", begun.elapsed().as_nanos() / u128::from(CALLS));
            }
        }
    }
    handle.shutdown().await;
    Ok(())
}
