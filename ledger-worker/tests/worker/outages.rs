//! PostgreSQL and nats-server die and come back: the worker goes on by itself, and nothing is lost or doubled.

use std::time::Duration;

use anyhow::Result;
use events::{Body, Event};
use ledger::Category::Other;
use ledger::{Clock, IdSource, UserId};
use ledger_worker::WorkerConfig;
use nats::{Connection, Publisher, PublisherConfig};
use sqlx::PgPool;
use testkit::{PrivateServers, wait_until};
use tokio_util::sync::CancellationToken;

use crate::support::{BOUND, call, encoded, reported};

async fn total(pool: &PgPool) -> Option<i64> {
    let query = "SELECT COALESCE(sum(total_calls), 0)::bigint FROM monthly_usage_summary";
    sqlx::query_scalar(query).fetch_one(pool).await.ok()
}

#[tokio::test]
async fn the_worker_outlives_database_and_log() -> Result<()> {
    let servers = PrivateServers::start().await?;
    servers.postgres.ensure_database("ledger").await?;
    let database_url = servers.postgres.url("ledger");
    store::migrate(&database_url).await?;
    let mut connection = Connection::new(servers.nats.url(), "LEDGER".parse()?);
    connection.monitor_url = Some(servers.nats.monitor_url());
    let clock = Clock::system();
    let ids = IdSource::new(clock.clone());
    let shutdown = CancellationToken::new();
    let config = WorkerConfig::new(&database_url, connection.clone(), testkit::keys(), clock.clone());
    let worker = tokio::spawn(ledger_worker::run(config, shutdown.clone()));
    let log = nats::connect(&connection).await?;
    log.ensure_stream(1).await?;
    let producers = ids.clone();
    let publisher = Publisher::start(&log, PublisherConfig::default(), move || producers.random_id()).await?;
    let user = UserId::new(ids.random_id());
    let publish = async |round: i64| {
        let own = Event::by_api(ids.event_id(), user, clock.now(), Body::ApiCalled(call(Other)));
        let theirs = reported(user, &round.to_string(), clock.now(), call(Other));
        publisher.publish_all(vec![encoded(&own), encoded(&theirs), encoded(&theirs)]).await
    };
    let pool = store::pool(&database_url, 2)?;
    publish(0).await?;
    wait_until(BOUND, async || total(&pool).await == Some(2)).await;

    servers.postgres.kill().await;
    publish(1).await?;
    servers.postgres.resume().await?;
    wait_until(BOUND, async || total(&pool).await == Some(4)).await;

    servers.nats.kill().await;
    servers.nats.resume().await?;
    // The publisher may need a moment to find the server again; a refused event was certainly not recorded.
    let mut recorded = publish(2).await;
    while recorded.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        recorded = publish(2).await;
    }
    wait_until(BOUND, async || total(&pool).await == Some(6)).await;
    shutdown.cancel();
    worker.await??;
    Ok(())
}
