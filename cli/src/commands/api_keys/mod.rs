//! `usage-ledger api-keys`: keys by which programs sign in. (`keys` are the root keys of what is sealed.)

mod create;
mod list;
mod revoke;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::config::Settings;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists a user's keys: id, name, role, scopes, budget, shown part, state, last use
    List(list::Arguments),
    /// Makes a key and prints it, once
    Create(create::Arguments),
    /// Ends a key, for ever
    Revoke(revoke::Arguments),
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    match &arguments.command {
        Command::List(arguments) => list::run(arguments, settings).await,
        Command::Create(arguments) => create::run(arguments, settings).await,
        Command::Revoke(arguments) => revoke::run(arguments, settings).await,
    }
}

/// The command, as the log names it.
const COMMAND: &str = "usage-ledger api-keys";
