//! `usage-ledger api`: the HTTP service alone.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{config::Settings, shutdown};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The port to listen on, instead of `LISTEN_ADDR`'s.
    #[arg(long)]
    port: Option<u16>,
    /// Starts although the log may lose what it acknowledged.
    #[arg(long)]
    allow_unsafe_log: bool,
}

pub(crate) async fn run(arguments: &Arguments, settings: Settings) -> Result<ExitCode> {
    let mut config = settings.api(settings.clock()?)?;
    if let Some(port) = arguments.port {
        config.listen_addr.set_port(port);
    }
    config.log.allow_unsafe |= arguments.allow_unsafe_log;
    let shutdown = shutdown::on_signals().context("cannot listen for signals")?;
    api::run(config, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}
