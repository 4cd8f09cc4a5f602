//! Servers of one test's own, to be killed and started again.

use anyhow::Result;
use infra::{NatsConfig, NatsServer, Postgres, PostgresConfig};

use crate::servers::scratch_dir;

/// A test's own servers, which it may kill, stop and start again: each keeps its port and its data.
pub struct PrivateServers {
    /// `kill`, `crash`, `stop`, `resume`.
    pub postgres: Postgres,
    /// Likewise; `store` is where its files lie.
    pub nats: NatsServer,
}

impl PrivateServers {
    /// Starts both; they and their data end with this value.
    pub async fn start() -> Result<Self> {
        let dir = scratch_dir()?;
        let postgres = PostgresConfig::new(dir.join("postgres")).for_tests();
        let nats = NatsConfig::new(dir.join("nats")).for_tests();
        let (postgres, nats) = tokio::try_join!(Postgres::start(postgres), NatsServer::start(nats))?;
        Ok(Self { postgres, nats })
    }
}
