//! `usage-ledger serve`: api, worker and a nats-server for one production machine.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use infra::{DataDir, NatsConfig, NatsServer};
use tokio_util::sync::CancellationToken;

use super::processes::Processes;
use crate::{config::Settings, shutdown};

/// File with what other commands need to reach the log of a running `serve`.
const SERVE_ENV: &str = "serve.env";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where the log is kept.
    #[arg(long)]
    data_dir: PathBuf,
    /// The nats-server's loopback port; a free one when absent.
    #[arg(long)]
    nats_port: Option<u16>,
    /// Starts although the log may lose what it acknowledged.
    #[arg(long)]
    allow_unsafe_log: bool,
}

pub(crate) async fn run(arguments: Arguments, mut settings: Settings) -> Result<ExitCode> {
    let shutdown = shutdown::on_signals().context("cannot listen for signals")?;
    if settings.get("NATS_URL").is_some() {
        tracing::warn!(variable = "NATS_URL", "is set and not used: serve runs a nats-server of its own");
    }
    // Before any server is started: a wrong setting should cost no time.
    settings.put("NATS_URL", "nats://127.0.0.1");
    let clock = settings.clock()?;
    settings.api(clock)?;
    settings.keys().ring()?;
    let dir = DataDir::open(&arguments.data_dir)?;
    let nats = NatsConfig { port: arguments.nats_port, ..NatsConfig::new(dir.path()) };
    let nats = NatsServer::start(nats).await?;
    settings.put("NATS_URL", nats.url());
    settings.put("NATS_MONITOR_URL", nats.monitor_url());
    let ran = serve(&arguments, &settings, &dir, &shutdown).await;
    dir.remove(SERVE_ENV)?;
    nats.stop().await;
    ran?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(
    arguments: &Arguments,
    settings: &Settings,
    dir: &DataDir,
    shutdown: &CancellationToken,
) -> Result<()> {
    store::migrate(settings.database_url()?).await?;
    let mut processes = Processes::start(settings, &settings.clock()?, arguments.allow_unsafe_log)?;
    dir.write_private(SERVE_ENV, &settings.without_root_keys().env_file(&[]))?;
    let ran = tokio::select! {
        error = processes.failed() => Err(error),
        () = shutdown.cancelled() => Ok(()),
    };
    let stopped = processes.stop().await;
    ran.and(stopped)
}
