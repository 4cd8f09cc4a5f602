//! `usage-ledger worker`: the projector alone.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use api::operations::metrics;
use clap::Args;

use crate::{config::Settings, shutdown};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Starts although the log may lose what it acknowledged.
    #[arg(long)]
    allow_unsafe_log: bool,
}

pub(crate) async fn run(arguments: &Arguments, settings: Settings) -> Result<ExitCode> {
    let mut config = settings.worker(settings.clock()?)?;
    config.allow_unsafe_log |= arguments.allow_unsafe_log;
    let shutdown = shutdown::on_signals().context("cannot listen for signals")?;
    if let Some(address) = settings.get("METRICS_ADDR") {
        let address: SocketAddr =
            address.trim().parse().context("METRICS_ADDR must be an address like 127.0.0.1:9090")?;
        // In one process with the api it is the api that serves them.
        let recorder = metrics::install().context("metrics cannot be recorded")?;
        tokio::spawn(metrics::serve(address, recorder, shutdown.clone()).await?);
    }
    Box::pin(ledger_worker::run(config, shutdown)).await?;
    Ok(ExitCode::SUCCESS)
}
