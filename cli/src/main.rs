//! The one binary of the usage ledger.

mod commands;
mod config;
mod demo;
mod differences;
mod import;
mod legacy;
mod logging;
mod output;
mod progress;
mod shutdown;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match commands::run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) if output::is_unread(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("usage-ledger: {}", output::printable(&output::chain(&error)));
            ExitCode::FAILURE
        }
    }
}
