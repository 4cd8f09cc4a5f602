//! `usage-ledger keys`: the root keys that wrap users' data keys.

mod import_legacy;
mod rotate;
mod status;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use vault::{OsEntropy, RootKey};

use crate::config::Settings;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints a fresh key for `ENCRYPTION_KEY`.
    New,
    /// Which keys this database knows, which are configured, and what each wraps.
    Status,
    /// Wraps all data keys under `ENCRYPTION_KEY`; beside a running api, and as often as one likes.
    ///
    /// Exit code 1 when some did not open; they are named and stay as they were.
    Rotate,
    // Without words of its own here: its arguments describe the file.
    ImportLegacy(import_legacy::Arguments),
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    match &arguments.command {
        Command::New => {
            println!("{}", RootKey::generate(&OsEntropy)?.to_hex().as_str());
            Ok(ExitCode::SUCCESS)
        }
        Command::Status => status::run(settings).await,
        Command::Rotate => rotate::run(settings).await,
        Command::ImportLegacy(arguments) => import_legacy::run(arguments, settings).await,
    }
}
