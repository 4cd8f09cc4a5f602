//! `usage-ledger dev`: the whole system on this machine, with servers of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use api::auth::Role;
use chrono::{DateTime, Utc};
use clap::Args;
use infra::{DataDir, NatsConfig, NatsServer, Postgres, PostgresConfig};
use ledger::Clock;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{admin, processes::Processes, token};
use crate::{
    config::{DEV_DATA_DIR, DEV_ENV, Settings, Source},
    demo, shutdown,
};

const DATABASE: &str = "usage_ledger";
const ADMIN: &str = "admin";
const ADMIN_TOKEN_TTL: Duration = Duration::from_hours(30 * 24);
/// The file of the root key that `dev` makes.
const ENCRYPTION_KEY: &str = "encryption-key";
const READY_BOUND: Duration = Duration::from_mins(10);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where everything is kept over restarts.
    #[arg(long, default_value = DEV_DATA_DIR)]
    data_dir: PathBuf,
    /// The api's port; a free one when absent.
    #[arg(long)]
    port: Option<u16>,
    /// Starts PostgreSQL and nats-server alone, for running `api` and `worker` apart.
    #[arg(long)]
    infra: bool,
    /// Brings a month of believable calls.
    #[arg(long, conflicts_with = "infra")]
    demo: bool,
    /// Starts the ledger's clock there: 2026-11-30T23:58:00Z.
    #[arg(long)]
    now: Option<DateTime<Utc>>,
}

pub(crate) async fn run(arguments: Arguments, mut settings: Settings) -> Result<ExitCode> {
    let shutdown = shutdown::on_signals().context("cannot listen for signals")?;
    let dir = DataDir::open(&arguments.data_dir)?;
    // Its presence says that everything is ready.
    dir.remove(DEV_ENV)?;
    let clock = arguments.now.map_or_else(|| settings.clock(), |now| Ok(Clock::starting_at(now)))?;
    let (postgres, nats) = tokio::try_join!(
        Postgres::start(PostgresConfig::new(dir.path())),
        NatsServer::start(NatsConfig::new(dir.path())),
    )?;
    let ran = serve(&arguments, &mut settings, &clock, &dir, (&postgres, &nats), &shutdown).await;
    dir.remove(DEV_ENV)?;
    nats.stop().await;
    postgres.stop().await;
    ran?;
    Ok(ExitCode::SUCCESS)
}

/// Everything between the start of the servers and their end.
async fn serve(
    arguments: &Arguments,
    settings: &mut Settings,
    clock: &Clock,
    dir: &DataDir,
    (postgres, nats): (&Postgres, &NatsServer),
    shutdown: &CancellationToken,
) -> Result<()> {
    postgres.ensure_database(DATABASE).await?;
    let address = complete(settings, arguments, clock, dir, (postgres, nats))?;
    store::migrate(settings.database_url()?).await?;
    let admin = ADMIN.parse().context("the admin's name")?;
    let admin_token = token::mint_for(settings, clock, &admin, Role::Admin, ADMIN_TOKEN_TTL).await?;
    let api_url = format!("http://{address}");
    let env_file = settings.env_file(&[("API_URL", &api_url), ("ADMIN_TOKEN", &admin_token)]);
    if arguments.infra {
        let path = dir.write_private(DEV_ENV, &env_file)?;
        announce_servers(&path);
        shutdown.cancelled().await;
        return Ok(());
    }
    let mut processes = Processes::start(settings, clock, false)?;
    let fill = async {
        ready(address).await?;
        if arguments.demo {
            let calls = demo::fill(&api_url, &admin_token, clock.now()).await.context("the demo")?;
            eprintln!("{calls} calls of the last 30 days are in the ledger, of users like demo-ada");
        }
        Ok(())
    };
    let ready = tokio::select! {
        ready = fill => ready,
        error = processes.failed() => Err(error),
        () = shutdown.cancelled() => return processes.stop().await,
    };
    let ran = match ready {
        Ok(()) => {
            let path = dir.write_private(DEV_ENV, &env_file)?;
            announce(&api_url, &path, &admin::first_link(settings).await?);
            tokio::select! {
                error = processes.failed() => Err(error),
                () = shutdown.cancelled() => Ok(()),
            }
        }
        Err(error) => Err(error),
    };
    let stopped = processes.stop().await;
    ran.and(stopped)
}

/// Sets what nobody has set: `dev` is generous. A secret that was given goes before a made one; the servers are always
/// its own. Answers where the api listens.
fn complete(
    settings: &mut Settings,
    arguments: &Arguments,
    clock: &Clock,
    dir: &DataDir,
    (postgres, nats): (&Postgres, &NatsServer),
) -> Result<SocketAddr> {
    for name in ["DATABASE_URL", "NATS_URL", "NATS_MONITOR_URL"] {
        if settings.get(name).is_some() {
            tracing::warn!(variable = name, "is set and not used: dev runs servers of its own");
        }
    }
    settings.put("DATABASE_URL", postgres.url(DATABASE));
    settings.put("NATS_URL", nats.url());
    settings.put("NATS_MONITOR_URL", nats.monitor_url());
    settings.put("CLOCK_OFFSET_MS", clock.offset_ms().to_string());
    for name in ["AUTO_PROVISION", "SELF_UPGRADE", "SELF_RESET", "USER_INGEST"] {
        settings.add(name, "true", Source::Made);
    }
    settings.add("JWT_SECRET", dir.secret("jwt-secret")?, Source::Made);
    if settings.get("ENCRYPTION_KEY").is_none() {
        settings.put("ENCRYPTION_KEY", dir.secret(ENCRYPTION_KEY)?);
        let path = dir.path().join("secrets").join(ENCRYPTION_KEY);
        eprintln!("users' data is sealed under the key in {}; without it, it cannot be read", path.display());
    }
    let address = match (arguments.port, settings.get("LISTEN_ADDR")) {
        (Some(port), _) => SocketAddr::from(([127, 0, 0, 1], port)),
        (None, Some(address)) => {
            address.parse().context("LISTEN_ADDR must be an address like 127.0.0.1:8080")?
        }
        (None, None) => SocketAddr::from(([127, 0, 0, 1], infra::free_port()?)),
    };
    settings.put("LISTEN_ADDR", address.to_string());
    settings.add("PUBLIC_URL", format!("http://{address}"), Source::Made);
    settings.add("REGISTRATION", "open", Source::Made);
    Ok(address)
}

/// Waits until the api says that log and database are there.
async fn ready(address: SocketAddr) -> Result<()> {
    let started = Instant::now();
    while !asks_ready(address).await.unwrap_or(false) {
        anyhow::ensure!(started.elapsed() < READY_BOUND, "the api was not ready within {READY_BOUND:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn asks_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

/// The program as it was called: it need not be on the PATH.
fn program() -> String {
    std::env::args_os().next().map_or_else(|| "usage-ledger".to_owned(), |path| path.display().to_string())
}

fn announce(api_url: &str, env_file: &Path, link: &str) {
    let (env_file, program) = (env_file.display(), program());
    eprintln!(
        "
usage-ledger is ready at {api_url} (documentation: {api_url}/docs)

  Sign in:        . {env_file}        # API_URL, ADMIN_TOKEN and all that `api` and `worker` need
  A first call:   curl -i -H \"Authorization: Bearer $ADMIN_TOKEN\" -H 'X-Forwarded-Uri: /api/analyze' -H \
         'X-Forwarded-Method: GET' $API_URL/api/forward-auth
  What it cost:   curl -H \"Authorization: Bearer $ADMIN_TOKEN\" $API_URL/api/usage/stats
  A user's token: {program} token --user alice
  In a browser:   {link}
                  # you are the administrator; good once, for 15 minutes; another one: {program} admin link

Stop with Ctrl-C; the data stays.
"
    );
}

fn announce_servers(env_file: &Path) {
    let (env_file, program) = (env_file.display(), program());
    eprintln!(
        "
PostgreSQL and nats-server are ready.

  In two shells:  . {env_file}; {program} worker
                  . {env_file}; {program} api

Stop with Ctrl-C; the data stays.
"
    );
}
