//! API keys: made and ended, what they may do, what they may use.

mod access;
pub(crate) mod browser;
mod budgets;
mod factors;
mod github;
mod lifecycle;
mod links;
mod people;
mod security_log;
mod sessions;
mod usage;
mod validity;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Client, Role, World};

/// An API key, and a client that presents it as a bearer token.
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) client: Client,
}

/// Makes a key of this user with these scopes and further fields, as an admin: nobody asks an admin to slow down.
pub(crate) async fn key(world: &World, user: &str, scopes: &[&str], more: Value) -> Result<Key> {
    let boss = world.client("boss", Role::Admin)?;
    world.service()?.put(&format!("/api/users/{user}")).json(&json!({})).send().await?;
    let mut body = json!({"name": "a key", "scopes": scopes});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    let path = format!("/api/keys?user_id={user}");
    let made = boss.post(&path).json(&body).send().await?.expect(201)?.json()?;
    let text = |name: &str| Ok::<_, anyhow::Error>(made[name].as_str().context("a text")?.to_owned());
    let secret = text("secret")?;
    Ok(Key { id: text("id")?, client: world.anonymous()?.with_token(&secret), secret })
}

/// The path of a user's key, for an admin.
pub(crate) fn path(user: &str, key: &Key) -> String {
    format!("/api/keys/{}?user_id={user}", key.id)
}
