//! Database, stream, clock and ids of one test.

use anyhow::Result;
use ledger::{Clock, IdSource};
use nats::{Connection, Log, StreamName};
use sqlx::PgPool;

use crate::{Database, PrivateServers, Role, Servers, Token};

/// Surroundings of one test, its own from database to stream.
pub struct Env {
    nats_url: String,
    monitor_url: String,
    database: Database,
    pool: PgPool,
    stream: StreamName,
    /// The clock of everything started here: clones share its offset, so a test moves them all at once.
    pub clock: Clock,
    /// Ids from that clock.
    pub ids: IdSource,
}

impl Env {
    /// A migrated database and a stream name that nobody else uses.
    pub async fn start() -> Result<Self> {
        let servers = Servers::shared().await?;
        Self::at(&servers.admin_url, servers.nats_url.clone(), servers.monitor_url.clone()).await
    }

    /// The same on servers that the test may kill.
    pub async fn on(servers: &PrivateServers) -> Result<Self> {
        let (nats_url, monitor_url) = (servers.nats.url(), servers.nats.monitor_url());
        Self::at(&servers.postgres.url("postgres"), nats_url, monitor_url).await
    }

    /// A database as a build left it whose last migration was this one; [`store::migrate`] brings it up to date.
    pub async fn at_migration(version: i64) -> Result<Self> {
        let servers = Servers::shared().await?;
        let (clock, ids) = clock_and_ids();
        let database = Database::create_at(&servers.admin_url, &ids, version).await?;
        Self::with(database, clock, ids, servers.nats_url.clone(), servers.monitor_url.clone()).await
    }

    async fn at(admin_url: &str, nats_url: String, monitor_url: String) -> Result<Self> {
        let (clock, ids) = clock_and_ids();
        let database = Database::create(admin_url, &ids).await?;
        Self::with(database, clock, ids, nats_url, monitor_url).await
    }

    async fn with(
        database: Database,
        clock: Clock,
        ids: IdSource,
        nats_url: String,
        monitor_url: String,
    ) -> Result<Self> {
        let pool = database.pool().await?;
        let stream = format!("TEST_{}", ids.random_id().simple()).parse()?;
        Ok(Self { nats_url, monitor_url, database, pool, stream, clock, ids })
    }

    /// A pool of the database.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// `DATABASE_URL`.
    pub fn database_url(&self) -> &str {
        self.database.url()
    }

    /// `NATS_URL`.
    pub fn nats_url(&self) -> &str {
        &self.nats_url
    }

    /// Variables that tell the program of these surroundings.
    pub fn variables(&self) -> [(&str, &str); 5] {
        [
            ("DATABASE_URL", self.database_url()),
            ("NATS_URL", self.nats_url()),
            ("NATS_MONITOR_URL", self.monitor_url()),
            ("NATS_STREAM", self.stream_name()),
            ("ENCRYPTION_KEY", crate::ENCRYPTION_KEY),
        ]
    }

    /// `NATS_MONITOR_URL`.
    pub fn monitor_url(&self) -> &str {
        &self.monitor_url
    }

    /// `NATS_STREAM`; the stream itself is made by who needs it.
    pub fn stream_name(&self) -> &str {
        self.stream.as_str()
    }

    /// A connection to the log, of this test's stream.
    pub fn connection(&self) -> Connection {
        let mut connection = Connection::new(self.nats_url(), self.stream.clone());
        connection.monitor_url = Some(self.monitor_url().to_owned());
        connection
    }

    /// The log, with its stream made.
    pub async fn log(&self) -> Result<Log> {
        let log = nats::connect(&self.connection()).await?;
        log.ensure_stream(1).await?;
        Ok(log)
    }

    /// A bearer token of an hour for this user.
    pub fn token(&self, subject: &str, role: Role) -> String {
        Token::new(&self.clock, subject, role).mint()
    }
}

fn clock_and_ids() -> (Clock, IdSource) {
    let clock = Clock::system();
    let ids = IdSource::new(clock.clone());
    (clock, ids)
}
