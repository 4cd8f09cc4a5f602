//! `usage-ledger admin`: the administrator's way in.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::connected::{Connected, operator};
use super::user::{email, may_print, print_link};
use crate::config::Settings;

/// The command, as the log names it.
const COMMAND: &str = "usage-ledger admin link";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a link by which the administrator signs in
    Link(LinkArguments),
}

/// The link is good once, for 15 minutes, and is nowhere else: to a terminal, or with --print into a pipe or a file.
/// There is no default password anywhere.
#[derive(Debug, Args)]
struct LinkArguments {
    /// Address of the administrator, by which it signs in with a password later; the first administrator unless given
    #[arg(long)]
    email: Option<String>,
    /// Print the link though it is not a terminal that reads it
    #[arg(long)]
    print: bool,
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let Command::Link(arguments) = &arguments.command;
    may_print(arguments.print)?;
    let connected = Connected::open(settings, COMMAND).await?;
    let now = connected.clock.now();
    let email = arguments.email.as_deref().map(|text| email(text, now)).transpose()?;
    let link = connected.people(settings)?.admin_link(email.as_ref(), &operator(COMMAND)).await?;
    print_link(&link)?;
    connected.close().await;
    Ok(ExitCode::SUCCESS)
}

/// A link for `dev` to print.
pub(super) async fn first_link(settings: &Settings) -> Result<String> {
    let connected = Connected::open(settings, COMMAND).await?;
    let link = connected.people(settings)?.admin_link(None, &operator(COMMAND)).await?;
    connected.close().await;
    Ok(link.url)
}
