//! Lag of the projection behind the log.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::jetstream;
use sqlx::{Connection as _, PgConnection};

use crate::process::Machine;

const POLL: Duration = Duration::from_millis(5);

/// Reads the log's end and the checkpoint.
#[derive(Debug)]
pub(crate) struct Probe {
    stream: jetstream::stream::Stream,
    connection: PgConnection,
}

impl Probe {
    /// Connects to the machine's servers; the stream has to exist.
    pub(crate) async fn connect(machine: &Machine) -> anyhow::Result<Self> {
        let client = nats::client(machine.variable("NATS_URL")?).await?;
        let name = machine.environment.get("NATS_STREAM").map_or("LEDGER", String::as_str);
        let stream = jetstream::new(client).get_stream(name).await.context("looking up the stream")?;
        let connection = PgConnection::connect(machine.variable("DATABASE_URL")?).await?;
        Ok(Self { stream, connection })
    }

    /// The log's last sequence.
    pub(crate) async fn last_seq(&mut self) -> anyhow::Result<i64> {
        Ok(i64::try_from(self.stream.info().await?.state.last_sequence)?)
    }

    /// Bytes that the log takes.
    pub(crate) async fn log_bytes(&mut self) -> anyhow::Result<i64> {
        Ok(i64::try_from(self.stream.info().await?.state.bytes)?)
    }

    /// The checkpoint's sequence and how many events stand before it.
    pub(crate) async fn checkpoint(&mut self) -> anyhow::Result<(i64, i64)> {
        let row = sqlx::query_as("SELECT seq, events FROM projection_checkpoint WHERE partition = 0");
        Ok(row.fetch_one(&mut self.connection).await?)
    }

    /// Waits until all that is in the log now is projected; the number of events then.
    pub(crate) async fn wait_until_projected(&mut self, bound: Duration) -> anyhow::Result<i64> {
        let (end, start) = (self.last_seq().await?, Instant::now());
        loop {
            let (seq, events) = self.checkpoint().await?;
            if seq >= end {
                return Ok(events);
            }
            ensure!(start.elapsed() < bound, "{} frames not projected after {bound:?}", end - seq);
            tokio::time::sleep(POLL).await;
        }
    }
}
