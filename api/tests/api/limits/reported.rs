//! Reported calls count against what is admitted after them, also of a user whom nobody has asked about yet.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::{try_join, try_join_all};
use serde_json::{Value, json};
use testkit::{Answer, Client, Worker, World};

use crate::answers::assert_problem;

/// Longest time that a decision waits for the projection, and what a busy machine adds to it.
const WAIT: Duration = Duration::from_secs(5);
const AT_MOST: Duration = Duration::from_secs(15);

/// Has the host report so many calls of the user.
async fn report(world: &World, subject: &str, calls: usize) -> Result<Answer> {
    let call = json!({"endpoint": "/api/other"});
    let event = |n: usize| json!({"id": n.to_string(), "subject": subject, "data": call});
    let events: Vec<Value> = (0..calls).map(event).collect();
    world.service()?.post("/api/usage/events").json(&events).send().await?.expect(202)
}

/// A world in which nothing is projected any more, and one user who was read before.
async fn frozen() -> Result<(World, Client)> {
    let mut world = World::start().await?;
    let warm = world.user("warm")?;
    world.call(&warm, "/api/other").await?.expect(204)?;
    world.wait_until_projected().await?;
    world.stop_worker().await?;
    Ok((world, warm))
}

#[tokio::test]
async fn nothing_is_decided_about_an_unread_user_by_what_was_before_its_reports() -> Result<()> {
    let (mut world, warm) = frozen().await?;
    report(&world, "unread", 60).await?;
    let unread = world.user("unread")?;
    let asked = Instant::now();
    let question = json!({"endpoint": "/api/other"});
    let check = || async { unread.post("/api/usage/check").json(&question).send().await };
    let (call, check) = try_join(world.call(&unread, "/api/other"), check()).await?;
    assert!(asked.elapsed() >= WAIT && asked.elapsed() < AT_MOST, "{:?}", asked.elapsed());
    for answer in [call, check] {
        assert_problem(&answer, 503, "unavailable");
        assert!(answer.header("retry-after").is_some());
    }
    // Others know nothing of it.
    let asked = Instant::now();
    world.call(&warm, "/api/other").await?.expect(204)?;
    world.call(&world.user("new")?, "/api/other").await?.expect(204)?;
    assert!(asked.elapsed() < WAIT);

    world.start_worker();
    let refused = world.call(&unread, "/api/other").await?.expect(429)?;
    assert_eq!(refused.json()?["used"], 60);
    assert_eq!(world.summary("unread").await?, (60, 0));
    Ok(())
}

#[tokio::test]
async fn the_first_decision_waits_for_a_projection_that_catches_up() -> Result<()> {
    let (world, _) = frozen().await?;
    report(&world, "unread", 45).await?;
    let unread = world.user("unread")?;
    let calls = try_join_all((0..20).map(|_| world.call(&unread, "/api/other")));
    // A worker needs longer to begin than a call to ask.
    let worker = async { anyhow::Ok(Worker::start(world.env.worker_config())) };
    let (answers, _worker) = try_join(calls, worker).await?;
    let admitted = answers.iter().filter(|answer| answer.status == 204).count();
    let refused = answers.iter().filter(|answer| answer.status == 429).count();
    assert_eq!((admitted, refused), (5, 15));
    assert_eq!(world.summary("unread").await?, (50, 0));
    Ok(())
}

#[tokio::test]
async fn events_of_openmeters_clients_count_at_once_as_well() -> Result<()> {
    let (mut world, _) = frozen().await?;
    let event = |n: usize| {
        json!({"specversion": "1.0", "id": n.to_string(), "source": "s", "type": "call", "subject": "metered",
               "data": {"endpoint": "/api/other"}})
    };
    let events: Vec<Value> = (0..60).map(event).collect();
    let request = world.service()?.post("/api/v1/events");
    let body = serde_json::to_vec(&events)?;
    request.body("application/cloudevents-batch+json", body).send().await?.expect(204)?;
    let metered = world.user("metered")?;
    world.call(&metered, "/api/other").await?.expect(503)?;
    world.start_worker();
    world.call(&metered, "/api/other").await?.expect(429)?;
    Ok(())
}

#[tokio::test]
async fn what_was_reported_before_a_restart_counts_after_it() -> Result<()> {
    let (world, _) = frozen().await?;
    report(&world, "unread", 60).await?;
    let mut world = world.restart_api(&[]).await?;
    let unread = world.user("unread")?;
    world.call(&unread, "/api/other").await?.expect(503)?;
    world.start_worker();
    world.wait_until_open().await;
    world.call(&unread, "/api/other").await?.expect(429)?;
    Ok(())
}
