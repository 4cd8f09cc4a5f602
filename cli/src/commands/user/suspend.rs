//! `usage-ledger user suspend`: bars a user, or lets it in again.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use ledger::UserRef;
use store::identity::users::AccountStatus;

use super::COMMAND;
use crate::commands::connected::{Connected, operator, user};
use crate::config::Settings;

/// Every api knows of it within a second.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Our UUID of the user, or the host's own id
    user: UserRef,
    /// Lets the user in again; whoever was signed in signs in anew
    #[arg(long)]
    off: bool,
}

pub(super) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let connected = Connected::open(settings, COMMAND).await?;
    let mut conn = connected.pool.acquire().await?;
    let user = user(settings, &connected.clock, &mut conn, &arguments.user).await?;
    drop(conn);
    let status = if arguments.off { AccountStatus::Active } else { AccountStatus::Suspended };
    connected.people(settings)?.set_status(user, status, &operator(COMMAND)).await?;
    eprintln!("{user} is {}", status.as_str());
    connected.close().await;
    Ok(ExitCode::SUCCESS)
}
