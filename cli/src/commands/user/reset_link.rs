//! `usage-ledger user reset-link`: a link by which a user sets another password.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use ledger::UserRef;

use super::{COMMAND, may_print, print_link};
use crate::commands::connected::{Connected, operator, user};
use crate::config::Settings;

/// The link is good once, for an hour, and is nowhere else: to a terminal, or with --print into a pipe or a file.
/// Whoever uses it ends all sessions of the user.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Our UUID of the user, or the host's own id
    user: UserRef,
    /// Print the link though it is not a terminal that reads it
    #[arg(long)]
    print: bool,
}

pub(super) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    may_print(arguments.print)?;
    let connected = Connected::open(settings, COMMAND).await?;
    let mut conn = connected.pool.acquire().await?;
    let user = user(settings, &connected.clock, &mut conn, &arguments.user).await?;
    drop(conn);
    let link = connected.people(settings)?.reset_link(user, &operator(COMMAND)).await?;
    print_link(&link)?;
    connected.close().await;
    Ok(ExitCode::SUCCESS)
}
