//! The servers themselves: kept data, SIGKILL, exclusive use, secrets.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use infra::{DataDir, NatsConfig, NatsServer, Postgres, PostgresConfig, StartError};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A directory that PostgreSQL's own user may enter when the tests run as root.
fn open_dir() -> Result<TempDir> {
    let dir = TempDir::new()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

/// The client ignores a login that stands in its URL.
async fn log_in(server: &NatsServer) -> Result<async_nats::Client> {
    let url = server.url();
    let (user, rest) = url.trim_start_matches("nats://").split_once(':').ok_or("no user")?;
    let (password, address) = rest.split_once('@').ok_or("no password")?;
    let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
    Ok(options.connect(address).await?)
}

async fn count(server: &Postgres) -> std::result::Result<i64, sqlx::Error> {
    let mut connection = PgConnection::connect(&server.url("facts")).await?;
    let count = sqlx::query_scalar("SELECT count(*) FROM fact").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(count)
}

#[tokio::test]
async fn postgres_keeps_its_data_over_stop_kill_and_crash() -> Result {
    let dir = open_dir()?;
    let server = Postgres::start(PostgresConfig::new(dir.path())).await?;
    server.ensure_database("facts").await?;
    server.ensure_database("facts").await?;
    let mut connection = PgConnection::connect(&server.url("facts")).await?;
    connection.execute("CREATE TABLE fact (id int); INSERT INTO fact VALUES (1), (2)").await?;
    connection.close().await?;

    let before = server.pid();
    server.kill().await;
    assert_eq!(server.pid(), None);
    assert!(count(&server).await.is_err(), "a killed server must not answer");
    server.resume().await?;
    assert_ne!(server.pid(), before);
    assert_eq!(count(&server).await?, 2);

    let before = server.pid();
    server.crash();
    tokio::time::timeout(Duration::from_secs(30), async {
        while server.pid() == before || count(&server).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    assert_eq!(count(&server).await?, 2);

    server.stop().await;
    assert!(!dir.path().join("postgres/postmaster.pid").exists(), "the cluster must be closed cleanly");
    drop(server);
    let again = Postgres::start(PostgresConfig::new(dir.path())).await?;
    assert_eq!(count(&again).await?, 2);
    again.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_server_left_by_an_earlier_run_is_stopped_first() -> Result {
    let dir = open_dir()?;
    let (postgres_dir, nats_dir) = (dir.path().join("pg"), dir.path().join("nats"));
    let postgres = Postgres::start(PostgresConfig::new(&postgres_dir)).await?;
    let nats = NatsServer::start(NatsConfig::new(&nats_dir)).await?;
    let (old_postgres, old_nats) = (postgres.pid(), nats.pid());
    // For the second run the first one's servers are orphans: they run, and nobody in it knows them.
    let second_postgres = Postgres::start(PostgresConfig::new(&postgres_dir)).await?;
    let second_nats = NatsServer::start(NatsConfig::new(&nats_dir)).await?;
    assert_ne!(second_postgres.pid(), old_postgres);
    assert_ne!(second_nats.pid(), old_nats);
    for server in [&second_postgres, &postgres] {
        server.stop().await;
    }
    second_nats.stop().await;
    nats.stop().await;
    Ok(())
}

#[tokio::test]
async fn nats_keeps_its_streams_over_sigkill_and_syncs_always() -> Result {
    let dir = open_dir()?;
    let server = NatsServer::start(NatsConfig::new(dir.path())).await?;
    let client = log_in(&server).await?;
    let context = async_nats::jetstream::new(client);
    let stream = async_nats::jetstream::stream::Config { name: "FACTS".to_owned(), ..Default::default() };
    context.create_stream(stream).await?;
    context.publish("FACTS", "one".into()).await?.await?;

    server.kill().await;
    server.resume().await?;
    let client = log_in(&server).await?;
    let info = async_nats::jetstream::new(client).get_stream("FACTS").await?.get_info().await?;
    assert_eq!(info.state.messages, 1);
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_stranger_gets_in_nowhere() -> Result {
    let dir = open_dir()?;
    let server = NatsServer::start(NatsConfig::new(dir.path().join("nats"))).await?;
    let (_, address) =
        server.url().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).ok_or("no login")?;
    assert!(async_nats::connect(&address).await.is_err());
    server.stop().await;
    let server = Postgres::start(PostgresConfig::new(dir.path().join("pg"))).await?;
    let stranger = format!("postgres://ledger:guess@127.0.0.1:{}/postgres", server.port());
    assert!(PgConnection::connect(&stranger).await.is_err());
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn logs_are_for_their_owner_alone_and_quote_no_rows() -> Result {
    let dir = open_dir()?;
    // An earlier version left it open to all.
    std::fs::write(dir.path().join("postgres.log"), "earlier\n")?;
    std::fs::set_permissions(dir.path().join("postgres.log"), std::fs::Permissions::from_mode(0o644))?;
    let postgres = Postgres::start(PostgresConfig::new(dir.path())).await?;
    let nats = NatsServer::start(NatsConfig::new(dir.path())).await?;
    for name in ["postgres.log", "nats.log"] {
        let mode = dir.path().join(name).metadata()?.permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name} has mode {mode:o}");
    }
    let mut connection = PgConnection::connect(&postgres.url("postgres")).await?;
    connection
        .execute("CREATE TABLE fact (secret text PRIMARY KEY); INSERT INTO fact VALUES ('hidden')")
        .await?;
    assert!(connection.execute("INSERT INTO fact VALUES ('hidden')").await.is_err());
    connection.close().await?;
    let log = dir.path().join("postgres.log");
    let said = async || {
        while !std::fs::read_to_string(&log).unwrap_or_default().contains("duplicate key") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), said()).await?;
    let said = std::fs::read_to_string(&log)?;
    assert!(!said.contains("DETAIL"), "{said}");
    nats.stop().await;
    postgres.stop().await;
    Ok(())
}

#[test]
fn a_data_directory_has_one_holder_and_keeps_its_secrets() -> Result {
    let dir = open_dir()?;
    let held = DataDir::open(dir.path())?;
    assert!(matches!(DataDir::open(dir.path()), Err(StartError::InUse(_))));
    let secret = held.secret("jwt")?;
    assert_eq!(secret.len(), 64);
    assert_ne!(held.secret("other")?, secret);
    drop(held);
    let held = DataDir::open(dir.path())?;
    assert_eq!(held.secret("jwt")?, secret);
    // A key that a hand damaged can be mended; one that is replaced is lost with all that it sealed.
    let damaged = dir.path().join("secrets/jwt");
    for text in [&secret[1..], "", &"x".repeat(64)] {
        std::fs::write(&damaged, text)?;
        assert!(matches!(held.secret("jwt"), Err(StartError::NotASecret(path)) if path.ends_with("jwt")));
        assert_eq!(std::fs::read_to_string(&damaged)?, text);
    }
    let path = held.write_private("dev.env", "A=b\n")?;
    assert_eq!(path.metadata()?.permissions().mode() & 0o777, 0o600);
    held.remove("dev.env")?;
    held.remove("dev.env")?;
    assert!(!path.exists());
    Ok(())
}
