//! The ground that all other tests stand on.

use std::time::Duration;

use anyhow::Result;
use sqlx::Connection;
use testkit::{Env, PrivateServers, wait_until};

#[tokio::test]
async fn every_test_has_a_migrated_database_of_its_own() -> Result<()> {
    let (one, other) = (Env::start().await?, Env::start().await?);
    assert_ne!(one.database_url(), other.database_url());
    assert_ne!(one.stream_name(), other.stream_name());
    sqlx::query("UPDATE projection_checkpoint SET seq = 7").execute(one.pool()).await?;
    let seq: i64 =
        sqlx::query_scalar("SELECT seq FROM ledger.projection_checkpoint").fetch_one(other.pool()).await?;
    assert_eq!(seq, 0);
    let plans: i64 =
        sqlx::query_scalar("SELECT count(*) FROM subscription_limits").fetch_one(one.pool()).await?;
    assert_eq!(plans, 3);
    Ok(())
}

#[tokio::test]
async fn a_database_is_dropped_with_its_env() -> Result<()> {
    let env = Env::start().await?;
    let url = env.database_url().to_owned();
    drop(env);
    assert!(sqlx::PgConnection::connect(&url).await.is_err());
    Ok(())
}

#[tokio::test]
async fn private_servers_can_be_killed_and_come_back() -> Result<()> {
    let servers = PrivateServers::start().await?;
    let pid = servers.nats.pid();
    servers.nats.crash();
    wait_until(Duration::from_secs(20), || async { servers.nats.pid().is_some_and(|now| Some(now) != pid) })
        .await;
    servers.nats.ready().await?;
    servers.postgres.kill().await;
    servers.postgres.resume().await?;
    Ok(())
}

#[tokio::test]
async fn the_log_is_there_with_all_that_it_promises() -> Result<()> {
    let env = Env::start().await?;
    let log = env.log().await?;
    log.verify(false).await?;
    assert_eq!(log.state().await?.last_seq, 0);
    Ok(())
}
