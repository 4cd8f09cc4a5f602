//! `usage-ledger user invite`: a link by which somebody makes an account.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use api::config::Registration;
use clap::Args;

use super::{COMMAND, email, may_print, print_link};
use crate::commands::connected::{Connected, operator};
use crate::config::Settings;

/// The link is good once, for seven days, and is nowhere else: to a terminal, or with --print into a pipe or a file.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Address of the person, by which it will sign in
    email: String,
    /// Print the link though it is not a terminal that reads it
    #[arg(long)]
    print: bool,
}

pub(super) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    may_print(arguments.print)?;
    ensure!(
        settings.sign_in()?.registration != Registration::Closed,
        "REGISTRATION is closed, so that nobody can take an invitation: set it to invite"
    );
    let connected = Connected::open(settings, COMMAND).await?;
    let email = email(&arguments.email, connected.clock.now())?;
    let link = connected.people(settings)?.invite(&email, &operator(COMMAND)).await?;
    print_link(&link)?;
    connected.close().await;
    Ok(ExitCode::SUCCESS)
}
