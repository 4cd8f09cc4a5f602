use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use api::auth::{Mint, Role, mint};
use clap::Args;
use ledger::{Clock, IdSource, UserRef};
use secrecy::ExposeSecret as _;
use sqlx::Connection as _;

use crate::config::{Settings, parse_duration};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Our UUID of the user, or the host's own id.
    #[arg(long)]
    user: UserRef,
    /// What the token may do: user, service or admin.
    #[arg(long, default_value = "user")]
    role: Role,
    /// How long it is valid: 90s, 15m, 1h, 7d.
    #[arg(long, default_value = "1h", value_parser = ttl)]
    ttl: Duration,
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let clock = settings.clock()?;
    let token = mint_for(settings, &clock, &arguments.user, arguments.role, arguments.ttl).await?;
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}

/// Creates the user where there is none, and mints.
pub(crate) async fn mint_for(
    settings: &Settings,
    clock: &Clock,
    user: &UserRef,
    role: Role,
    ttl: Duration,
) -> Result<String> {
    let jwt = settings.jwt()?;
    let now = clock.now();
    let account = match user {
        UserRef::Id(id) => (id.get(), None),
        UserRef::External(id) => (IdSource::new(clock.clone()).random_id(), Some(id.as_str().to_owned())),
    };
    let mut connection = store::connect(settings.database_url()?, store::Schema::Live).await?;
    store::users::provision(&mut connection, &[account], now).await?;
    connection.close().await.context("cannot close the connection to PostgreSQL")?;
    let token = mint(&jwt, &Mint { subject: user, role, ttl, now })?;
    Ok(token.expose_secret().to_owned())
}

fn ttl(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("a token of no time is of no use".to_owned()),
        other => other.map_err(|error| error.to_string()),
    }
}
