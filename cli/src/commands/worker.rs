//! `usage-ledger worker`: the projector alone.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use metrics_exporter_prometheus::PrometheusBuilder;

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
    if let Some(address) = settings.get("METRICS_ADDR") {
        let address: SocketAddr =
            address.trim().parse().context("METRICS_ADDR must be an address like 127.0.0.1:9090")?;
        // In one process with the api the recorder is the api's, which serves it; alone the worker has its own.
        let exporter = PrometheusBuilder::new().with_http_listener(address);
        exporter.install().with_context(|| format!("METRICS_ADDR: cannot listen on {address}"))?;
    }
    let shutdown = shutdown::on_signals().context("cannot listen for signals")?;
    Box::pin(ledger_worker::run(config, shutdown)).await?;
    Ok(ExitCode::SUCCESS)
}
