//! PostgreSQL and nats-server die and come back: the worker goes on by itself, and nothing is lost or doubled.

use anyhow::Result;
use events::{Body, Event};
use ledger::Category::Other;
use ledger::UserId;
use nats::{Publisher, PublisherConfig};
use sqlx::PgPool;
use store::projection::checkpoint;
use testkit::{Env, PrivateServers, Worker, wait_until};

use crate::support::{BOUND, call, encoded, reported};

/// A frozen worker is relieved within this time.
const RELIEF: std::time::Duration = std::time::Duration::from_secs(10);

async fn total(pool: &PgPool) -> Option<i64> {
    let query = "SELECT COALESCE(sum(total_calls), 0)::bigint FROM monthly_usage_summary";
    sqlx::query_scalar(query).fetch_one(pool).await.ok()
}

#[tokio::test]
async fn the_worker_outlives_database_and_log() -> Result<()> {
    let servers = PrivateServers::start().await?;
    let env = Env::on(&servers).await?;
    let worker = Worker::start(env.worker_config());
    let log = env.log().await?;
    let (clock, ids) = (env.clock.clone(), env.ids.clone());
    let producers = ids.clone();
    let publisher = Publisher::start(&log, PublisherConfig::default(), move || producers.random_id()).await?;
    let user = UserId::new(ids.random_id());
    let publish = async |round: i64| {
        let own = Event::by_api(ids.event_id(), user, clock.now(), Body::ApiCalled(call(Other)));
        let theirs = reported(user, &round.to_string(), clock.now(), call(Other));
        publisher.publish_all(vec![encoded(&own), encoded(&theirs), encoded(&theirs)]).await
    };
    let pool = store::pool(env.database_url(), 2)?;
    publish(0).await?;
    wait_until(BOUND, async || total(&pool).await == Some(2)).await;

    servers.postgres.kill().await;
    publish(1).await?;
    servers.postgres.resume().await?;
    wait_until(BOUND, async || total(&pool).await == Some(4)).await;

    servers.nats.kill().await;
    servers.nats.resume().await?;
    // The publisher may need a moment to find the server again; a refused event was certainly not recorded.
    wait_until(BOUND, async || publish(2).await.is_ok()).await;
    wait_until(BOUND, async || total(&pool).await == Some(6)).await;
    worker.stop().await
}

/// A reconciler whose process stands still holds up the projector, here or in a standby, for seconds and no longer: the
/// kernel would answer for it, and it would keep the checkpoint for ever.
#[tokio::test]
async fn who_stands_still_in_a_transaction_loses_the_checkpoint() -> Result<()> {
    let env = Env::start().await?;
    let reconcilers = store::reconciler_pool(env.database_url(), 1)?;
    let mut still = reconcilers.begin().await?;
    checkpoint::lock(&mut still, checkpoint::PARTITION).await?;
    let mut projector = env.pool().begin().await?;
    tokio::time::timeout(RELIEF, checkpoint::lock(&mut projector, checkpoint::PARTITION)).await??;
    assert!(still.commit().await.is_err(), "what it had done is undone");
    Ok(())
}
