//! `usage-ledger user`: people, and the links by which they get in.

mod invite;
mod list;
mod reset_link;
mod show;
mod suspend;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use api::accounts::Link;
use chrono::SecondsFormat;
use clap::{Args, Subcommand};
use credentials::Address;
use store::identity::people::{Identity, IdentityKind};

use crate::config::Settings;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists users: id, the host's id, address by which it signs in, contact address, name, state, admin or user
    List(list::Arguments),
    /// Shows a user, how it signs in, and its sessions
    Show(show::Arguments),
    /// Makes a link by which somebody makes an account of an address
    Invite(invite::Arguments),
    /// Bars a user, who is signed out everywhere within a second; --off lets it in again
    Suspend(suspend::Arguments),
    /// Makes a link by which a user sets another password
    ResetLink(reset_link::Arguments),
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    match &arguments.command {
        Command::List(arguments) => list::run(arguments, settings).await,
        Command::Show(arguments) => show::run(arguments, settings).await,
        Command::Invite(arguments) => invite::run(arguments, settings).await,
        Command::Suspend(arguments) => suspend::run(arguments, settings).await,
        Command::ResetLink(arguments) => reset_link::run(arguments, settings).await,
    }
}

/// The command, as the log names it.
const COMMAND: &str = "usage-ledger user";

/// Refuses to write a link where it would stay, unless that is meant.
pub(super) fn may_print(print: bool) -> Result<()> {
    ensure!(
        print || io::stdout().is_terminal(),
        "stdout is no terminal, and the link would stay where it is written: give --print if that is meant"
    );
    Ok(())
}

/// Prints a link, once.
pub(super) fn print_link(link: &Link) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", link.url)?;
    out.flush()?;
    if link.url.starts_with('/') {
        eprintln!("PUBLIC_URL is not set: put the address of the api before it");
    }
    eprintln!("good once, until {}", link.ends_at.to_rfc3339_opts(SecondsFormat::Secs, true));
    Ok(())
}

/// An address by which somebody signs in, as the operator knows it.
pub(super) fn email(text: &str, now: chrono::DateTime<chrono::Utc>) -> Result<Identity> {
    let address: Address = Address::parse(text).context("the address cannot be used")?;
    Ok(Identity {
        kind: IdentityKind::Email,
        subject: address.canonical().to_owned(),
        label: address.written().to_owned(),
        verified_at: Some(now),
    })
}
