//! Runs a command beside a private PostgreSQL and nats-server and ends with its exit code:
//! `with-servers [--migrated DIR] COMMAND…`.
//!
//! The command gets `TEST_DATABASE_URL`, `TEST_NATS_URL` and `TEST_NATS_MONITOR_URL`; with `--migrated` also
//! `DATABASE_URL`, a database with the migrations of that directory. It uses no query of `store`, so that it can be
//! built while the snapshot of the queries is stale.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fs,
    io::ErrorKind,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
};

use infra::{NatsConfig, NatsServer, Postgres, PostgresConfig};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{Connection, PgConnection, migrate::Migrator, postgres::PgConnectOptions};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

const DATABASE: &str = "migrated";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("with-servers: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let migrations = match arguments.first() {
        Some(first) if first == "--migrated" && arguments.len() > 1 => {
            Some(PathBuf::from(arguments.drain(..2).next_back().unwrap_or_default()))
        }
        _ => None,
    };
    let Some((program, arguments)) = arguments.split_first() else {
        eprintln!("usage: with-servers [--migrated DIR] COMMAND…");
        return Ok(ExitCode::from(2));
    };
    // Before anything is started: what is missing is told at once, and nothing has to be stopped again.
    infra::check_programs()?;
    let dir = env::temp_dir().join(format!("usage-ledger-servers-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    // PostgreSQL's own user must be able to enter it when we are root.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    let status = run_beside(&dir, command, migrations.as_deref()).await;
    // The servers take it with them unless something else is in it.
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Ok(exit_code(status?))
}

/// Runs the command beside servers in this directory, and stops them.
async fn run_beside(
    dir: &Path,
    mut command: Command,
    migrations: Option<&Path>,
) -> Result<ExitStatus, Box<dyn Error>> {
    let (postgres, nats) = tokio::try_join!(
        Postgres::start(PostgresConfig::new(dir.join("postgres")).for_tests()),
        NatsServer::start(NatsConfig::new(dir.join("nats")).for_tests()),
    )?;
    command.env("TEST_DATABASE_URL", postgres.url("postgres"));
    command.env("TEST_NATS_URL", nats.url()).env("TEST_NATS_MONITOR_URL", nats.monitor_url());
    if let Some(migrations) = migrations {
        postgres.ensure_database(DATABASE).await?;
        let url = postgres.url(DATABASE);
        migrate(migrations, &url).await?;
        command.env("DATABASE_URL", url);
    }
    let status = wait_for(&mut command).await;
    nats.stop().await;
    postgres.stop().await;
    drop((nats, postgres));
    Ok(status?)
}

async fn migrate(migrations: &Path, url: &str) -> Result<(), Box<dyn Error>> {
    let migrator = Migrator::new(migrations).await?;
    let options: PgConnectOptions = url.parse()?;
    // The list of applied migrations lies in `public`, whatever the database's own search_path is.
    let mut connection = PgConnection::connect_with(&options.options([("search_path", "public")])).await?;
    migrator.run(&mut connection).await?;
    Ok(connection.close().await?)
}

/// Passes a request to stop on to the command, and waits for its end either way: the servers outlive it.
async fn wait_for(command: &mut Command) -> std::io::Result<ExitStatus> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut child = command.spawn()?;
    let id = child.id().map(|id| Pid::from_raw(id.cast_signed()));
    loop {
        tokio::select! {
            status = child.wait() => return status,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if let Some(id) = id {
            // It has just ended when this fails.
            let _ = kill(id, Signal::SIGTERM);
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
