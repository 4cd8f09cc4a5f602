//! An api and a worker in a world of their own.

use anyhow::Result;
use api::config::{Enforcement, LimitFailureMode};
use testkit::{Env, World};

#[tokio::test]
async fn an_api_decides_strictly_unless_a_test_says_otherwise() -> Result<()> {
    let env = Env::start().await?;
    let config = env.api_config(&[])?;
    assert_eq!(config.enforcement, Enforcement::Enforce);
    assert_eq!(config.limit_failure_mode, LimitFailureMode::Closed);
    let config = env.api_config(&[("ENFORCEMENT", "shadow"), ("SELF_RESET", "false")])?;
    assert_eq!((config.enforcement, config.self_reset), (Enforcement::Shadow, false));
    Ok(())
}

#[tokio::test]
async fn its_parts_are_stopped_and_started_again() -> Result<()> {
    let mut world = World::start().await?;
    world.call(&world.user("somebody")?, "/api/x").await?.expect(204)?;
    world.wait_until_projected().await?;
    world.stop_worker().await?;
    let mut world = world.restart_api(&[("MAX_UNPROJECTED", "7")]).await?;
    world.wait_until_open().await;
    world.call(&world.user("somebody")?, "/api/x").await?.expect(204)?;
    world.start_worker();
    assert_eq!(world.summary("somebody").await?, (2, 0));
    Ok(())
}
