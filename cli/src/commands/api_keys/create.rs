//! `usage-ledger api-keys create`: makes a key and prints it.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use api::accounts::Spec;
use chrono::TimeDelta;
use clap::Args;
use credentials::{KeyRole, Networks, Scope};
use ledger::{UserRef, parse_duration, text};
use store::identity::api_keys::Terms;

use super::super::connected::{Connected, operator, user};
use super::COMMAND;
use crate::config::Settings;

/// The key is printed once and is nowhere else: to a terminal, or with --print into a pipe or a file.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Our UUID of the user whose key it is, or the host's own id
    #[arg(long)]
    user: UserRef,
    /// What it is called
    #[arg(long, value_parser = name)]
    name: String,
    /// As whom it acts: its user, or a service, for any user
    #[arg(long, default_value = "user")]
    role: KeyRole,
    /// What it may do; nothing unless given: ingest, check, read, tokens, and of a service plans, users, erase
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<Scope>,
    /// A network from which alone it is taken, such as 10.0.0.0/8
    #[arg(long = "network", value_name = "CIDR", value_delimiter = ',')]
    networks: Vec<String>,
    /// Units a month that it may use, below the plan's limit
    #[arg(long)]
    budget: Option<u64>,
    /// How long it is valid, such as 90d; until it is revoked unless given
    #[arg(long, value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Print the key though it is not a terminal that reads it
    #[arg(long)]
    print: bool,
}

pub(super) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    ensure!(
        arguments.print || io::stdout().is_terminal(),
        "stdout is no terminal, and the key would stay where it is written: give --print if that is meant"
    );
    let networks = Networks::parse(&arguments.networks).context("--network cannot be used")?;
    let connected = Connected::open(settings, COMMAND).await?;
    let now = connected.clock.now();
    let ttl = arguments.ttl.map(|ttl| TimeDelta::from_std(ttl).context("--ttl is too long")).transpose()?;
    let expires_at = ttl.map(|ttl| now.checked_add_signed(ttl).context("--ttl is too long")).transpose()?;
    let mut conn = connected.pool.acquire().await?;
    let owner = user(settings, &connected.clock, &mut conn, &arguments.user).await?;
    drop(conn);
    let spec = Spec {
        name: arguments.name.clone(),
        role: arguments.role,
        terms: Terms {
            scopes: arguments.scopes.iter().copied().collect(),
            networks,
            budget: arguments.budget,
            expires_at,
        },
    };
    let event = (connected.ids.event_id(), now);
    let made = connected.registry(settings)?.create(owner, spec, &operator(COMMAND), event).await?;
    let secret = made.secret.context("a key of this id is there already")?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", secret.expose())?;
    out.flush()?;
    eprintln!("made the key {} of the user {owner}; it is not shown again", made.key.id);
    connected.close().await;
    Ok(ExitCode::SUCCESS)
}

fn name(given: &str) -> Result<String, ledger::Invalid> {
    text::check_name("a name", given)?;
    Ok(given.to_owned())
}
