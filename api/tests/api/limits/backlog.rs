//! While the projection is behind: those who report have to wait, the largest first, and calls that ask go on.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Answer, Client, PATIENCE, World, wait_until};

use crate::answers::assert_problem;

/// Calls of one report.
const BATCH: usize = 400;

/// Reports so many calls of the client's user, or of a subject.
async fn report(client: &Client, batch: usize, calls: usize, subject: Option<&str>) -> Result<Answer> {
    let event = |n: usize| {
        let mut event = json!({"id": format!("{batch}-{n}"), "data": {"endpoint": "/api/other"}});
        if let Some(subject) = subject {
            event["subject"] = json!(subject);
        }
        event
    };
    let events: Vec<Value> = (0..calls).map(event).collect();
    client.post("/api/usage/events").json(&events).send().await
}

async fn stage(world: &World) -> Result<String> {
    let ready = world.anonymous()?.get("/readyz").send().await?.json()?;
    Ok(ready["ingest"]["stage"].as_str().context("no stage")?.to_owned())
}

async fn wait_for(world: &World, expected: &str) {
    wait_until(PATIENCE, || async { stage(world).await.is_ok_and(|stage| stage == expected) }).await;
}

/// A refusal of a report: it says nothing of a quota, and when to come back.
#[track_caller]
fn assert_shed(answer: &Answer) -> Result<()> {
    let problem = assert_problem(answer, 429, "rate_limited");
    let kind = problem["type"].as_str().context("no type")?;
    assert!(kind.ends_with("#temporary-reduced-capacity"), "{kind}");
    let seconds: u64 = answer.header("retry-after").context("no Retry-After")?.parse()?;
    assert!((1..=30).contains(&seconds), "{seconds}");
    Ok(())
}

#[tokio::test]
async fn the_largest_reporter_waits_first_then_all_and_calls_that_ask_never() -> Result<()> {
    // Two seconds of lag turn the largest away, eight seconds all.
    let mut world = World::with(&[("MAX_LAG", "2s")]).await?;
    let (flooder, neighbour, host) = (world.user("flooder")?, world.user("neighbour")?, world.service()?);
    world.call(&neighbour, "/api/other").await?.expect(204)?;
    report(&host, 0, 1, Some("customer")).await?.expect(202)?;
    world.wait_until_projected().await?;
    world.stop_worker().await?;
    for batch in 0..3 {
        report(&flooder, batch, BATCH, None).await?.expect(202)?;
    }
    report(&host, 1, 10, Some("customer")).await?.expect(202)?;
    assert_eq!(stage(&world).await?, "open");

    wait_for(&world, "largest_wait").await;
    assert_shed(&report(&flooder, 3, BATCH, None).await?)?;
    assert_shed(&flooder.post("/api/v1/events").body("application/cloudevents+json", one()).send().await?)?;
    report(&host, 2, 10, Some("customer")).await?.expect(202)?;
    world.call(&neighbour, "/api/other").await?.expect(204)?;
    // Also of one whom nobody knows, and of the flooder's own calls it is the limit that decides.
    world.call(&world.user("stranger")?, "/api/other").await?.expect(204)?;
    assert_eq!(stage(&world).await?, "largest_wait");

    wait_for(&world, "all_wait").await;
    assert_shed(&report(&host, 3, 1, Some("customer")).await?)?;
    assert_shed(&report(&flooder, 3, BATCH, None).await?)?;
    world.call(&neighbour, "/api/other").await?.expect(204)?;

    world.start_worker();
    wait_for(&world, "open").await;
    report(&flooder, 3, BATCH, None).await?.expect(202)?;
    report(&host, 3, 1, Some("customer")).await?.expect(202)?;
    let reported = i64::try_from(4 * BATCH)?;
    assert_eq!(world.summary("flooder").await?, (reported, 0), "what was turned away counts once");
    assert_eq!(world.summary("customer").await?, (22, 0));
    assert_eq!(world.summary("neighbour").await?, (3, 0));
    let metrics = api::operations::metrics::install().context("no recorder")?.render();
    for stage in ["largest_wait", "all_wait"] {
        let line = format!("ledger_reports_shed_total{{stage=\"{stage}\"}} ");
        assert!(metrics.lines().any(|text| text.starts_with(&line)), "no {line}");
    }
    assert!(metrics.contains("ledger_unprojected_bytes "));
    Ok(())
}

/// An event in OpenMeter's form.
fn one() -> Vec<u8> {
    let event = json!({"specversion": "1.0", "id": "o", "source": "s", "type": "call", "data": {}});
    event.to_string().into_bytes()
}

#[tokio::test]
async fn a_retry_under_the_same_key_is_taken_in_once_there_is_room() -> Result<()> {
    let mut world = World::with(&[("MAX_LAG", "1s")]).await?;
    let flooder = world.user("keyed")?;
    world.stop_worker().await?;
    report(&flooder, 0, BATCH, None).await?.expect(202)?;
    let body = json!([{"id": "late", "data": {"endpoint": "/api/other"}}]);
    let late = || flooder.post("/api/usage/events").header("Idempotency-Key", "late").json(&body).send();
    wait_for(&world, "largest_wait").await;
    assert_shed(&late().await?)?;
    world.start_worker();
    wait_for(&world, "open").await;
    late().await?.expect(202)?;
    assert_eq!(world.summary("keyed").await?, (i64::try_from(BATCH)? + 1, 0));
    Ok(())
}

#[tokio::test]
async fn a_lag_of_a_few_calls_turns_nobody_away_before_all_wait() -> Result<()> {
    let world = World::without_worker(&[("MAX_LAG", "1s")]).await?;
    let host = world.service()?;
    report(&host, 0, 5, Some("customer")).await?.expect(202)?;
    wait_for(&world, "largest_wait").await;
    report(&host, 1, 5, Some("customer")).await?.expect(202)?;
    Ok(())
}

#[tokio::test]
async fn units_are_nobodys_backlog() -> Result<()> {
    let mut world = World::start().await?;
    let (whale, neighbour, host) = (world.user("whale")?, world.user("neighbour")?, world.service()?);
    for user in [&whale, &neighbour] {
        world.call(user, "/api/other").await?.expect(204)?;
    }
    world.wait_until_projected().await?;
    world.stop_worker().await?;
    let call = json!({"endpoint": "/api/other", "units": 1_000_000});
    let event = |n: usize| json!({"id": n.to_string(), "subject": "whale", "data": call});
    let events: Vec<Value> = (0..3).map(event).collect();
    host.post("/api/usage/events").json(&events).send().await?.expect(202)?;
    world.call(&neighbour, "/api/other").await?.expect(204)?;
    world.call(&world.user("stranger")?, "/api/other").await?.expect(204)?;
    let refused = world.call(&whale, "/api/other").await?.expect(429)?;
    assert_eq!(refused.json()?["used"], 3_000_001);
    Ok(())
}

#[tokio::test]
async fn calls_of_one_user_that_are_not_projected_are_bounded_and_only_its_own() -> Result<()> {
    let mut world = World::without_worker(&[("MAX_UNPROJECTED", "5")]).await?;
    let (user, neighbour) = (world.user("behind")?, world.user("neighbour")?);
    for _ in 0..5 {
        world.call(&user, "/api/other").await?.expect(204)?;
    }
    let answer = world.call(&user, "/api/other").await?.expect(503)?;
    assert!(answer.header("retry-after").is_some());
    for _ in 0..5 {
        world.call(&neighbour, "/api/other").await?.expect(204)?;
    }
    world.start_worker();
    wait_until(Duration::from_secs(30), || async {
        world.call(&user, "/api/other").await.is_ok_and(|answer| answer.status == 204)
    })
    .await;
    Ok(())
}
