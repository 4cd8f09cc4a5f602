//! Users' tokens, and the end of users: through the real router, log, worker and database.

mod hostile;
mod stored;
mod uses;

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use testkit::{Answer, Client, World};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// Tokens as their providers make them, of nobody.
pub(super) const GITHUB: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";
pub(super) const OTHER_GITHUB: &str = "ghp_zyxwvutsrqponmlkjihgfedcba9876543210";
pub(super) const OPENAI: &str = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz";

/// What a user sends to store a token.
pub(super) fn token(token_type: &str, token: &str) -> Value {
    json!({"token_type": token_type, "token": token})
}

pub(super) async fn store(client: &Client, body: &Value) -> Result<Answer> {
    client.post("/api/tokens").json(body).send().await
}

/// The id of a token's JSON.
pub(super) fn id(answer: &Answer) -> Result<String> {
    Ok(answer.json()?["id"].as_str().context("no id")?.to_owned())
}

/// What was done, the newest first.
pub(super) async fn actions(client: &Client, path: &str) -> Result<Vec<String>> {
    let audit = client.get(path).send().await?.expect(200)?.json()?;
    let items = audit["items"].as_array().context("no items")?;
    Ok(items.iter().filter_map(|item| item["action"].as_str().map(str::to_owned)).collect())
}

/// A provider that answers every request alike, and remembers the credentials that came.
pub(super) struct Provider {
    pub(super) url: String,
    pub(super) seen: Arc<Mutex<Vec<String>>>,
    _server: AbortOnDropHandle<()>,
}

impl Provider {
    pub(super) async fn answering(status: u16) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let status = StatusCode::from_u16(status)?;
        let heard = seen.clone();
        let app = Router::new().fallback(async move |request: Request| {
            let credential = request.headers().get("authorization").cloned();
            let text = credential.map(|value| value.to_str().unwrap_or_default().to_owned());
            heard.lock().push(text.unwrap_or_default());
            (status, "{\"login\": \"a secret of the upstream\"}")
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { url, seen, _server: AbortOnDropHandle::new(server) })
    }
}

/// With this provider in the place of GitHub and `OpenAI`.
pub(super) async fn world_with(provider: &Provider) -> Result<World> {
    World::with(&[("GITHUB_API_URL", &provider.url), ("OPENAI_BASE_URL", &provider.url)]).await
}
