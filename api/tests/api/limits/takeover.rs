//! After an api that did not hand over, nothing is decided before its lease is certainly over.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::{Api, Env, PATIENCE, World, wait_until};

/// From the last word of a holder who did not hand over.
const TAKEOVER: Duration = Duration::from_secs(4);
/// Time by which a holder's last word may be older than what a test saw of it.
const HEARTBEAT: Duration = Duration::from_millis(600);

/// An api that has just been heard and of which no more is: neither its session nor the lock.
async fn silent_holder(env: &Env) -> Result<Instant> {
    let since = Instant::now();
    sqlx::query(
        "INSERT INTO public.lock_holders (lock, holder, backend_pid, backend_start, heartbeat_at)
         VALUES (131072, gen_random_uuid(), 0, clock_timestamp(), clock_timestamp())",
    )
    .execute(env.pool())
    .await?;
    Ok(since)
}

async fn session(env: &Env) -> Result<i32> {
    let session = "SELECT backend_pid FROM public.lock_holders WHERE lock = 131072";
    Ok(sqlx::query_scalar(session).fetch_one(env.pool()).await?)
}

#[tokio::test]
async fn the_wait_goes_on_in_a_new_session() -> Result<()> {
    let env = Env::start().await?;
    let since = silent_holder(&env).await?;
    let api = Api::start(&env, &[]).await?;
    let first = session(&env).await?;
    let ended: bool =
        sqlx::query_scalar("SELECT pg_terminate_backend($1)").bind(first).fetch_one(env.pool()).await?;
    ensure!(ended && first != 0, "no session to end");
    wait_until(PATIENCE, || async { api.handle.limits.readiness().is_ok() }).await;
    ensure!(session(&env).await? != first, "the lock was not lost");
    let waited = since.elapsed();
    assert!(waited >= TAKEOVER, "decided after {waited:?}");
    api.stop().await
}

#[tokio::test]
async fn one_that_ends_before_the_wait_is_over_leaves_it_to_the_next() -> Result<()> {
    let env = Env::start().await?;
    silent_holder(&env).await?;
    let api = Api::start(&env, &[]).await?;
    ensure!(api.handle.limits.readiness().is_err(), "it did not wait");
    api.stop().await?;
    let since = Instant::now();
    let world = World::in_env(env, &[]).await?;
    let waited = since.elapsed();
    assert!(waited + HEARTBEAT >= TAKEOVER, "decided after {waited:?}");
    // Who has waited hands over.
    let World { api, env, .. } = world;
    api.stop().await?;
    let is_released = "SELECT is_released FROM public.lock_holders WHERE lock = 131072";
    assert!(sqlx::query_scalar::<_, bool>(is_released).fetch_one(env.pool()).await?);
    Ok(())
}
