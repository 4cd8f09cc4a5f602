//! Never one call over the limit.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use api::limits::{Ask, LimitsError, Unready};
use futures_util::future::try_join_all;
use ledger::{Category, Month, Units};
use serde_json::json;
use testkit::{Api, Client, PATIENCE, World, wait_until};

/// How often each status was answered to so many calls made at once.
async fn calls_at_once(
    world: &World,
    client: &Client,
    path: &str,
    calls: usize,
) -> Result<BTreeMap<u16, usize>> {
    let answers = try_join_all((0..calls).map(|_| world.call(client, path))).await?;
    let mut statuses = BTreeMap::new();
    for answer in answers {
        *statuses.entry(answer.status.as_u16()).or_default() += 1;
    }
    Ok(statuses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_at_once_against_ten_are_exactly_ten() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("crowd")?;
    let statuses = calls_at_once(&world, &user, "/api/analyze", 200).await?;
    assert_eq!(statuses, BTreeMap::from([(204, 10), (429, 190)]));
    assert_eq!(world.summary("crowd").await?, (10, 10));
    let statuses = calls_at_once(&world, &user, "/api/other", 200).await?;
    assert_eq!(statuses, BTreeMap::from([(204, 40), (429, 160)]));
    assert_eq!(world.summary("crowd").await?, (50, 10));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn so_too_without_any_projection_and_after_a_restart() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let user = world.user("restarted")?;
    let statuses = calls_at_once(&world, &user, "/api/analyze", 6).await?;
    assert_eq!(statuses, BTreeMap::from([(204, 6)]));

    let mut world = world.restart_api(&[]).await?;
    let user = world.user("restarted")?;
    for _ in 0..3 {
        // Six calls are in the log that no summary knows of.
        let answer = world.call(&user, "/api/analyze").await?.expect(503)?;
        assert!(answer.header("retry-after").is_some());
    }
    world.start_worker();
    world.wait_until_open().await;
    let statuses = calls_at_once(&world, &user, "/api/analyze", 100).await?;
    assert_eq!(statuses, BTreeMap::from([(204, 4), (429, 96)]));
    assert_eq!(world.summary("restarted").await?, (10, 10));
    Ok(())
}

#[tokio::test]
async fn a_warm_user_is_held_to_the_limit_while_the_worker_is_stopped() -> Result<()> {
    let mut world = World::start().await?;
    let user = world.user("warm")?;
    for _ in 0..3 {
        world.call(&user, "/api/analyze").await?.expect(204)?;
    }
    world.wait_until_projected().await?;
    world.stop_worker().await?;
    for _ in 0..7 {
        world.call(&user, "/api/analyze").await?.expect(204)?;
    }
    for _ in 0..5 {
        world.call(&user, "/api/analyze").await?.expect(429)?;
    }
    world.start_worker();
    assert_eq!(world.summary("warm").await?, (10, 10));
    world.call(&user, "/api/analyze").await?.expect(429)?;
    Ok(())
}

#[tokio::test]
async fn the_call_after_an_upgrade_is_allowed() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("upgrading")?;
    for _ in 0..10 {
        world.call(&user, "/api/analyze").await?.expect(204)?;
    }
    world.call(&user, "/api/analyze").await?.expect(429)?;
    user.post("/api/usage/upgrade").json(&json!({"plan": "pro"})).send().await?.expect(200)?;
    let answer = world.call(&user, "/api/analyze").await?.expect(204)?;
    assert_eq!(answer.header("x-usage-plan"), Some("pro"));
    assert_eq!(answer.header("x-usage-used"), Some("11"));
    assert_eq!(answer.header("x-usage-limit"), Some("100"));
    Ok(())
}

#[tokio::test]
async fn an_upgrade_holds_before_it_is_projected_and_so_does_a_downgrade() -> Result<()> {
    let mut world = World::start().await?;
    let user = world.user("moving")?;
    for _ in 0..10 {
        world.call(&user, "/api/analyze").await?.expect(204)?;
    }
    world.wait_until_projected().await?;
    world.stop_worker().await?;
    let service = world.service()?;
    let plan = |user: &str, plan: &str| {
        let request = service.put(&format!("/api/users/{user}/plan"));
        request.json(&json!({"plan": plan, "effective": "now"})).send()
    };
    plan("moving", "pro").await?.expect(202)?;
    world.call(&user, "/api/analyze").await?.expect(204)?;
    world.start_worker();
    world.wait_until_projected().await?;
    world.stop_worker().await?;
    plan("moving", "free").await?.expect(202)?;
    world.call(&user, "/api/analyze").await?.expect(429)?;
    Ok(())
}

#[tokio::test]
async fn the_plan_of_a_user_who_never_called_holds_before_it_is_projected() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let service = world.service()?;
    service.put("/api/users/customer").json(&json!({"status": "active"})).send().await?.expect(201)?;
    let request = service.put("/api/users/customer/plan");
    request.json(&json!({"plan": "pro", "effective": "now"})).send().await?.expect(202)?;
    let answer = world.call(&world.user("customer")?, "/api/analyze").await?.expect(204)?;
    assert_eq!(answer.header("x-usage-plan"), Some("pro"));
    Ok(())
}

#[tokio::test]
async fn rewound_projections_close_the_gate_until_they_have_caught_up() -> Result<()> {
    let mut world = World::start().await?;
    let user = world.user("rewound")?;
    for _ in 0..4 {
        world.call(&user, "/api/analyze").await?.expect(204)?;
    }
    world.wait_until_projected().await?;
    world.stop_worker().await?;
    let seq: i64 = sqlx::query_scalar(
        "UPDATE projection_checkpoint AS new SET seq = 0 FROM projection_checkpoint AS old RETURNING old.seq",
    )
    .fetch_one(world.env.pool())
    .await?;
    wait_until(PATIENCE, || async { world.api.handle.limits.readiness().is_err() }).await;
    world.call(&user, "/api/analyze").await?.expect(503)?;
    sqlx::query("UPDATE projection_checkpoint SET seq = $1").bind(seq).execute(world.env.pool()).await?;
    world.wait_until_open().await;
    let statuses = calls_at_once(&world, &user, "/api/analyze", 20).await?;
    assert_eq!(statuses, BTreeMap::from([(204, 6), (429, 14)]));
    Ok(())
}

#[tokio::test]
async fn nothing_is_admitted_by_a_process_that_has_stopped() -> Result<()> {
    let world = World::with(&[("LIMIT_FAILURE_MODE", "open")]).await?;
    world.call(&world.user("late")?, "/api/analyze").await?.expect(204)?;
    let (user, limits) = (world.user_id("late").await?, world.api.handle.limits.clone());
    world.api.stop().await?;
    // A connection that outlived the drain may still ask, and the next process decides already.
    let at = world.env.clock.now();
    let ask = Ask { at, month: Month::of(at), category: Category::Analyze, units: Units::new(1)?, key: None };
    let error = limits.admit(user, ask).await.err();
    assert_eq!(error, Some(LimitsError::Unready(Unready::Stopping)));
    Api::start(&world.env, &[]).await?.stop().await
}

#[tokio::test]
async fn in_shadow_mode_a_refusal_is_admitted_and_marked() -> Result<()> {
    let world = World::with(&[("ENFORCEMENT", "shadow")]).await?;
    let user = world.user("shadow")?;
    for _ in 0..10 {
        let answer = world.call(&user, "/api/analyze").await?.expect(204)?;
        assert_eq!(answer.header("x-usage-would-block"), None);
    }
    for used in 11..=13 {
        let answer = world.call(&user, "/api/analyze").await?.expect(204)?;
        assert_eq!(answer.header("x-usage-would-block"), Some("analyze"));
        assert_eq!(answer.header("x-usage-used"), Some(used.to_string().as_str()));
    }
    let check =
        user.post("/api/usage/check").json(&json!({"endpoint": "/api/analyze"})).send().await?.expect(200)?;
    assert_eq!(check.json()?["allowed"], true);
    assert_eq!(check.header("x-usage-would-block"), Some("analyze"));
    assert_eq!(world.summary("shadow").await?, (13, 13));
    let pool = world.env.pool().clone();
    world.api.stop().await?;
    let rejected = || async {
        let row: (Option<i64>, Option<bool>) =
            sqlx::query_as("SELECT sum(count)::bigint, bool_and(shadow) FROM limit_rejections")
                .fetch_one(&pool)
                .await
                .expect("a row");
        row == (Some(3), Some(true))
    };
    wait_until(PATIENCE, rejected).await;
    Ok(())
}

#[tokio::test]
async fn a_reset_starts_the_month_anew() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("reset")?;
    for _ in 0..2 {
        for _ in 0..10 {
            world.call(&user, "/api/analyze").await?.expect(204)?;
        }
        world.call(&user, "/api/analyze").await?.expect(429)?;
        user.post("/api/usage/reset").json(&json!({"reason": "test"})).send().await?.expect(200)?;
    }
    world.call(&user, "/api/analyze").await?.expect(204)?;
    assert_eq!(world.summary("reset").await?, (1, 1));
    assert_eq!(world.rows("reset", "analyze").await?.0, 21);
    Ok(())
}

#[tokio::test]
async fn a_new_month_starts_with_nothing_used() -> Result<()> {
    let world = World::start().await?;
    world.env.clock.set("2026-11-30T23:59:50Z".parse()?);
    let user = world.user("month-end")?;
    for _ in 0..10 {
        world.call(&user, "/api/analyze").await?.expect(204)?;
    }
    world.call(&user, "/api/analyze").await?.expect(429)?;
    world.env.clock.set("2026-12-01T00:00:01Z".parse()?);
    let answer = world.call(&user, "/api/analyze").await?.expect(204)?;
    assert_eq!(answer.header("x-usage-used"), Some("1"));
    world.env.clock.set("2026-11-30T23:59:59Z".parse()?);
    world.call(&user, "/api/analyze").await?.expect(429)?;
    Ok(())
}

#[tokio::test]
async fn reported_calls_count_at_once_against_what_is_admitted() -> Result<()> {
    let mut world = World::start().await?;
    let (user, service) = (world.user("reported")?, world.service()?);
    world.call(&user, "/api/analyze").await?.expect(204)?;
    world.wait_until_projected().await?;
    world.stop_worker().await?;
    let events: Vec<_> = (0..12)
        .map(|n| json!({"id": n.to_string(), "subject": "reported", "data": {"endpoint": "/api/analyze"}}))
        .collect();
    service.post("/api/usage/events").json(&events).send().await?.expect(202)?;
    let refused = world.call(&user, "/api/analyze").await?.expect(429)?;
    assert_eq!(refused.json()?["used"], 13, "they happened, whatever the limit says");
    Ok(())
}

#[tokio::test]
async fn a_second_api_waits_and_then_says_why_it_does_not_start() -> Result<()> {
    let world = World::start().await?;
    let started = std::time::Instant::now();
    let refused = api::build(world.env.api_config(&[])?).await.err().context("it started")?;
    assert!(started.elapsed() >= Duration::from_secs(10));
    assert!(refused.to_string().contains("another api process serves this database"), "{refused}");
    world.api.stop().await?;
    let second = Api::start(&world.env, &[]).await?;
    second.stop().await
}
