//! Servers that all tests share.

use std::{env, fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result};
use infra::{NatsConfig, NatsServer, Postgres, PostgresConfig};
use tokio::sync::OnceCell;

static SHARED: OnceCell<Servers> = OnceCell::const_new();

/// A PostgreSQL and a nats-server for tests that leave them running.
pub struct Servers {
    /// The database `postgres`, as a role that may create databases.
    pub admin_url: String,
    /// The nats-server, with the login in the URL (`nats::connect` uses it; `async_nats::connect` does not).
    pub nats_url: String,
    /// Its monitoring endpoints.
    pub monitor_url: String,
    /// Held so that they run as long as this program.
    _own: Option<(Postgres, NatsServer)>,
}

impl Servers {
    /// The servers that all tests of this program share.
    pub async fn shared() -> Result<&'static Self> {
        SHARED.get_or_try_init(Self::find_or_start).await
    }

    async fn find_or_start() -> Result<Self> {
        let given = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let given = (given("TEST_DATABASE_URL"), given("TEST_NATS_URL"), given("TEST_NATS_MONITOR_URL"));
        match given {
            (Some(admin_url), Some(nats_url), Some(monitor_url)) => {
                Ok(Self { admin_url, nats_url, monitor_url, _own: None })
            }
            (None, None, None) => Self::start().await,
            _ => anyhow::bail!(
                "TEST_DATABASE_URL, TEST_NATS_URL and TEST_NATS_MONITOR_URL belong together: set all or none"
            ),
        }
    }

    async fn start() -> Result<Self> {
        let dir = scratch_dir()?;
        let postgres = PostgresConfig::new(dir.join("postgres")).for_tests();
        let nats = NatsConfig::new(dir.join("nats")).for_tests();
        let (postgres, nats) = tokio::try_join!(Postgres::start(postgres), NatsServer::start(nats))?;
        Ok(Self {
            admin_url: postgres.url("postgres"),
            nats_url: nats.url(),
            monitor_url: nats.monitor_url(),
            _own: Some((postgres, nats)),
        })
    }
}

/// A fresh directory, removed when the servers in it have gone. PostgreSQL's own user must be able to enter it when the
/// tests run as root.
pub(crate) fn scratch_dir() -> Result<std::path::PathBuf> {
    let dir = tempfile::Builder::new().prefix("usage-ledger-test-").tempdir()?.keep();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot open {} to others", dir.display()))?;
    Ok(dir)
}
