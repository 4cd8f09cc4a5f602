//! `usage-ledger api-keys revoke`: ends a key.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use ledger::KeyId;
use store::identity::api_keys;
use uuid::Uuid;

use super::super::connected::{Connected, operator};
use super::COMMAND;
use crate::config::Settings;

/// Every api knows of it within a second. A key that was revoked before stays so.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Id of the key, as `api-keys list` tells it
    id: Uuid,
}

pub(super) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let id = KeyId::new(arguments.id);
    let connected = Connected::open(settings, COMMAND).await?;
    let mut conn = connected.pool.acquire().await?;
    let owner = api_keys::owner(&mut conn, id).await?.context("there is no such API key")?;
    drop(conn);
    let revoked = connected.registry(settings)?.revoke(owner, id, &operator(COMMAND)).await?;
    eprintln!("{}", if revoked.is_some() { "revoked" } else { "it was revoked before" });
    connected.close().await;
    Ok(ExitCode::SUCCESS)
}
