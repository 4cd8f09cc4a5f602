//! Refusals: what is configured wrongly does not start, and says in one line what to do.

use anyhow::{Context as _, Result};
use async_nats::jetstream::stream::Config;
use infra::{NatsConfig, NatsServer};
use testkit::{Client, Database, Env, wait_until};

use crate::{
    cluster::{BOUND, Settings},
    program::{DataDir, Output, Program, output},
};

/// Address at which nothing listens.
const NOWHERE: &str = "127.0.0.1:1";

/// Exit code 1, and one line at the end that says this; what precedes it are log lines.
fn expect_refusal(ended: &Output, says: &[&str]) -> Result<()> {
    anyhow::ensure!(ended.code == Some(1), "exit code {:?}: {}", ended.code, ended.errors);
    let last = ended.errors.lines().last().context("it said nothing")?;
    anyhow::ensure!(last.starts_with("usage-ledger: "), "not the program's last word: {}", ended.errors);
    let lines =
        ended.errors.lines().filter(|line| line.starts_with("usage-ledger: ") || line.contains("panicked"));
    anyhow::ensure!(lines.count() == 1, "more than one line: {}", ended.errors);
    for part in says {
        anyhow::ensure!(last.contains(part), "{part:?} is missing in: {last}");
    }
    Ok(())
}

/// A nats-server of its own with this configuration.
async fn nats_server(dir: &DataDir, conf: impl FnOnce(String) -> String) -> Result<NatsServer> {
    let mut config = NatsConfig::new(dir.path().join("nats"));
    config.conf = conf(config.conf.into_owned()).into();
    Ok(NatsServer::start(config).await?)
}

/// Nothing of the ledger is in this database.
#[tokio::test]
async fn a_database_without_tables_is_refused() -> Result<()> {
    let (dir, env) = (DataDir::new()?, Env::start().await?);
    let (server, _) = env.database_url().rsplit_once('/').context("a database")?;
    let empty = Database::create_empty(&format!("{server}/postgres"), &env.ids).await?;
    let settings = settings_of(&env)?;
    for command in ["api", "worker"] {
        let ended = output(&dir, &[command], &settings.with("DATABASE_URL", empty.url())).await?;
        expect_refusal(&ended, &["run `usage-ledger migrate`"]).context(command)?;
        let nowhere = format!("{server}/nowhere");
        let ended = output(&dir, &[command], &settings.with("DATABASE_URL", &nowhere)).await?;
        expect_refusal(&ended, &["DATABASE_URL", "its database's name"]).context(command)?;
    }
    Ok(())
}

/// The tables are another version's, or half-made: each is told, with what to run.
#[tokio::test]
async fn tables_of_another_version_are_refused() -> Result<()> {
    let (dir, env) = (DataDir::new()?, Env::start().await?);
    let settings = settings_of(&env)?;
    let execute = async |statement: &str| sqlx::raw_sql(statement).execute(env.pool()).await;
    execute("CREATE TABLE public.kept AS SELECT * FROM public._sqlx_migrations").await?;
    let last = "(SELECT max(version) FROM public.kept)";
    let later = "INSERT INTO public._sqlx_migrations SELECT 9000 + version, 'later', now(), true, checksum, 1
                 FROM public.kept WHERE version < 3";
    let older = format!("DELETE FROM public._sqlx_migrations WHERE version = {last}");
    for (change, says, can_migrate) in [
        (older.as_str(), &["the database lacks migration 00", "run `usage-ledger migrate`"][..], true),
        (later, &["migrations 9001, 9002, which this program does not know", "run the newer"], false),
        (
            "UPDATE public._sqlx_migrations SET success = false WHERE version = 2",
            &["migration 0002 was begun in this database and did not end", "restore a backup"],
            false,
        ),
        (
            "UPDATE public._sqlx_migrations SET checksum = '\\x00' WHERE version = 2",
            &["migration 0002 of this database is not the one of this program", "run that build"],
            false,
        ),
    ] {
        execute(change).await?;
        for command in ["api", "worker", "migrate"] {
            if command != "migrate" || !can_migrate {
                let ended = output(&dir, &[command], &settings.as_pairs()).await?;
                expect_refusal(&ended, says).with_context(|| format!("{command} after {change}"))?;
            }
        }
        execute("TRUNCATE public._sqlx_migrations").await?;
        execute("INSERT INTO public._sqlx_migrations SELECT * FROM public.kept").await?;
    }
    Ok(())
}

fn settings_of(env: &Env) -> Result<Settings> {
    Settings::new(env.database_url(), env.nats_url(), env.monitor_url())
}

#[tokio::test]
async fn a_wrong_variable_is_named() -> Result<()> {
    let (dir, env) = (DataDir::new()?, Env::start().await?);
    let settings = settings_of(&env)?;
    let nobody = format!("nats://ledger:hidden@{NOWHERE}");
    let no_monitor = format!("http://{NOWHERE}");
    let (_, server) = env.database_url().split_once('@').context("a login")?;
    let wrong_login = format!("postgres://ledger:hidden@{server}");
    for (command, variable, value, says) in [
        ("api", "JWT_SECRET", "short", &["JWT_SECRET", "32"][..]),
        ("api", "JWT_SECRET", "", &["JWT_SECRET", "32"]),
        ("api", "ENCRYPTION_KEY", "", &["ENCRYPTION_KEY", "k1", "64 hexadecimal digits"]),
        ("worker", "ENCRYPTION_KEY", "5ec2e7", &["ENCRYPTION_KEY", "k1", "6 characters"]),
        ("api", "ENCRYPTION_KEY_PREVIOUS", "hidden", &["ENCRYPTION_KEY_PREVIOUS", "kid:hex"]),
        ("api", "DATABASE_URL", "mysql://u:hidden@h/d", &["DATABASE_URL", "postgres://"]),
        ("api", "DATABASE_URL", &wrong_login, &["DATABASE_URL", "login"]),
        ("worker", "DATABASE_URL", "nonsense", &["DATABASE_URL", "postgres://"]),
        ("worker", "DATABASE_URL", &wrong_login, &["DATABASE_URL", "login"]),
        ("api", "NATS_URL", "http://nonsense", &["NATS_URL"]),
        ("api", "NATS_URL", &nobody, &["cannot connect to NATS at nats://127.0.0.1:1"]),
        ("worker", "NATS_URL", &nobody, &["cannot connect to NATS at nats://127.0.0.1:1"]),
        ("api", "NATS_STREAM", "no.dots", &["NATS_STREAM"]),
        ("api", "NATS_MONITOR_URL", &no_monitor, &["sync_interval cannot be checked at http://127.0.0.1:1"]),
        (
            "worker",
            "NATS_MONITOR_URL",
            &no_monitor,
            &["sync_interval cannot be checked at http://127.0.0.1:1"],
        ),
        ("api", "NATS_MONITOR_URL", "", &["set NATS_MONITOR_URL"]),
        ("api", "LISTEN_ADDR", "nonsense", &["LISTEN_ADDR"]),
        ("api", "ENFORCEMENT", "perhaps", &["ENFORCEMENT"]),
    ] {
        let ended = output(&dir, &[command], &settings.with(variable, value)).await?;
        expect_refusal(&ended, says).with_context(|| format!("{command} with {variable}={value}"))?;
        assert!(!ended.errors.contains("hidden"), "a password is shown: {}", ended.errors);
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_acknowledges_before_fsync_is_refused_unless_allowed() -> Result<()> {
    let (dir, env) = (DataDir::new()?, Env::start().await?);
    let server = nats_server(&dir, |conf| conf.replace("sync_interval: always", "")).await?;
    let settings = Settings::new(env.database_url(), &server.url(), &server.monitor_url())?;
    for command in ["api", "worker"] {
        let ended = output(&dir, &[command], &settings.as_pairs()).await?;
        expect_refusal(&ended, &["sync_interval: always"]).context(command)?;
    }
    // Loudly.
    let api = Program::start(&dir, &["api", "--allow-unsafe-log"], &settings.as_pairs())?;
    let client = Client::new(format!("http://{}", settings.address))?;
    wait_until(BOUND, || async { client.get("/healthz").send().await.is_ok() }).await;
    drop(api);
    let said = std::fs::read_to_string(dir.path().join("api.log"))?;
    assert!(said.contains("WARN") && said.contains("sync_interval"), "{said}");
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_weak_stream_is_refused() -> Result<()> {
    let (dir, env) = (DataDir::new()?, Env::start().await?);
    let settings = settings_of(&env)?;
    let stream = env.stream_name();
    let config = Config {
        name: stream.to_owned(),
        subjects: vec![stream.parse::<nats::StreamName>()?.subject()],
        ..Config::default()
    };
    let client = nats::client(env.nats_url()).await?;
    async_nats::jetstream::new(client).create_stream(config).await.context("making the stream")?;
    for command in ["api", "worker"] {
        let ended = output(&dir, &[command], &settings.with("NATS_STREAM", stream)).await?;
        expect_refusal(&ended, &[stream, "deny_delete must be on", "deny_purge must be on"])
            .context(command)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_second_api_is_refused_and_the_first_goes_on() -> Result<()> {
    let (dir, env) = (DataDir::new()?, Env::start().await?);
    let first = settings_of(&env)?;
    let mut api = Program::start(&dir, &["api"], &first.with("NATS_STREAM", env.stream_name()))?;
    let client = Client::new(format!("http://{}", first.address))?;
    let ready = || async { client.get("/readyz").send().await.is_ok_and(|answer| answer.status == 200) };
    wait_until(BOUND, ready).await;
    let second = settings_of(&env)?;
    let ended = output(&dir, &["api"], &second.with("NATS_STREAM", env.stream_name())).await?;
    expect_refusal(&ended, &["another api process serves this database", "stop the other one"])?;
    assert_eq!(api.ended()?, None);
    assert!(ready().await, "the first one is undisturbed");
    Ok(())
}
