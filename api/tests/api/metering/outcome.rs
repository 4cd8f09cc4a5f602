//! `POST /api/usage/calls/{call_id}/outcome`.

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use events::{Body, CallCompleted, Event};
use futures_util::future::try_join_all;
use nats::EncodedEvent;
use serde_json::{Value, json};
use testkit::{Answer, Client, Role, World};
use tokio::time::timeout;

/// Far less than an answer takes that waits for a projection which does not come.
const SOON: Duration = Duration::from_secs(4);

async fn call_id(world: &World, client: &Client, path: &str) -> Result<String> {
    let answer = world.call(client, path).await?.expect(204)?;
    Ok(answer.header("x-usage-call-id").context("no call id")?.to_owned())
}

async fn complete(service: &Client, call: &str, body: &Value) -> Result<Answer> {
    service.post(&format!("/api/usage/calls/{call}/outcome")).json(body).send().await
}

#[tokio::test]
async fn a_failed_call_gives_its_units_back() -> Result<()> {
    let world = World::start().await?;
    let (user, service) = (world.user("failing")?, world.service()?);
    let mut calls = Vec::new();
    for _ in 0..10 {
        calls.push(call_id(&world, &user, "/api/analyze").await?);
    }
    world.call(&user, "/api/analyze").await?.expect(429)?;
    let failed = json!({"status_code": 503, "response_time_ms": 12});
    let answer = complete(&service, &calls[0], &failed).await?.expect(202)?;
    assert_eq!(answer.json()?["counted"], false);
    assert!(answer.header("ledger-seq").is_some());
    // Once, however often it is told.
    for _ in 0..3 {
        complete(&service, &calls[0], &failed).await?.expect(200)?;
    }
    world.wait_until_projected().await?;
    world.call(&user, "/api/analyze").await?.expect(204)?;
    world.call(&user, "/api/analyze").await?.expect(429)?;
    complete(&service, &calls[0], &failed).await?.expect(200)?;
    complete(&service, &calls[1], &json!({"status_code": 200, "response_size": 9})).await?.expect(202)?;
    world.wait_until_projected().await?;
    world.call(&user, "/api/analyze").await?.expect(429)?;
    assert_eq!(world.summary("failing").await?, (10, 10));
    assert_eq!(world.rows("failing", "analyze").await?, (11, 10));
    let completed: (Option<i16>, Option<i32>, Option<i64>, bool) = sqlx::query_as(
        "SELECT status_code, response_time_ms, response_size, counted FROM api_usage WHERE id = $1::uuid",
    )
    .bind(&calls[0])
    .fetch_one(world.env.pool())
    .await?;
    assert_eq!(completed, (Some(503), Some(12), None, false));
    assert_eq!(world.differences().await?, [""; 0]);
    Ok(())
}

/// Though the counts were read a moment before, to refuse a call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_are_there_as_soon_as_the_projection_gives_them_back() -> Result<()> {
    let world = World::start().await?;
    let (user, service) = (world.user("again")?, world.service()?);
    let mut calls = Vec::new();
    for _ in 0..10 {
        calls.push(call_id(&world, &user, "/api/analyze").await?);
    }
    for call in &calls {
        world.call(&user, "/api/analyze").await?.expect(429)?;
        complete(&service, call, &json!({"status_code": 500})).await?.expect(202)?;
        world.wait_until_projected().await?;
        world.call(&user, "/api/analyze").await?.expect(204)?;
    }
    world.call(&user, "/api/analyze").await?.expect(429)?;
    assert_eq!(world.rows("again", "analyze").await?, (20, 10));
    Ok(())
}

#[tokio::test]
async fn completing_a_call_is_counted_like_our_other_routes() -> Result<()> {
    let world = World::start().await?;
    let call = call_id(&world, &world.user("reported")?, "/api/x").await?;
    complete(&world.service()?, &call, &json!({"status_code": 200})).await?.expect(202)?;
    world.env.clock.set(world.env.clock.now() + chrono::TimeDelta::seconds(10));
    testkit::wait_until(testkit::PATIENCE, || async {
        let counts: Option<String> = sqlx::query_scalar("SELECT counts::text FROM own_calls")
            .fetch_optional(world.env.pool())
            .await
            .expect("a look at the rows");
        counts.is_some_and(|counts| {
            counts == r#"[{"route":"POST /api/usage/calls/{call_id}/outcome","status":"2xx","calls":1}]"#
        })
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn once_and_the_same_again() -> Result<()> {
    let world = World::start().await?;
    let (user, service) = (world.user("once")?, world.service()?);
    let call = call_id(&world, &user, "/api/x").await?;
    let body = json!({"status_code": 200, "response_time_ms": 5});
    let other = json!({"status_code": 500, "response_time_ms": 5});
    let first = complete(&service, &call, &body).await?.expect(202)?;
    for _ in 0..2 {
        assert_eq!(complete(&service, &call, &body).await?.expect(200)?.body, first.body);
        assert_eq!(complete(&service, &call, &other).await?.expect(409)?.code(), "conflict");
        // By this process's memory, then by the row.
        world.wait_until_projected().await?;
    }
    // A process that has not seen the first one.
    let world = world.restart_api(&[]).await?;
    world.wait_until_open().await;
    let service = world.service()?;
    assert_eq!(complete(&service, &call, &body).await?.expect(200)?.body, first.body);
    complete(&service, &call, &other).await?.expect(409)?;
    assert_eq!(world.summary("once").await?, (1, 0));
    Ok(())
}

#[tokio::test]
async fn two_at_once_are_one() -> Result<()> {
    let world = World::start().await?;
    let (user, service) = (world.user("racing")?, world.service()?);
    let call = call_id(&world, &user, "/api/x").await?;
    let bodies: Vec<Value> = (0..10).map(|n| json!({"status_code": 200 + n})).collect();
    let answers = try_join_all(bodies.iter().map(|body| complete(&service, &call, body))).await?;
    let good = answers.iter().filter(|answer| answer.status == 202).count();
    let conflicts = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!((good, conflicts), (1, 9));
    Ok(())
}

/// Nothing is projected: the calls are known to the process that has recorded them, and to no row.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn outcomes_wait_for_the_log_and_not_for_the_projection() -> Result<()> {
    const CALLS: usize = 200;
    let mut world = World::without_worker(&[]).await?;
    let service = world.service()?;
    let users: Vec<Client> = (0..5).map(|n| world.user(&format!("user-{n}"))).collect::<Result<_>>()?;
    let calls: Vec<String> =
        try_join_all((0..CALLS).map(|n| call_id(&world, &users[n % users.len()], "/api/x"))).await?;
    let bodies = [json!({"status_code": 200}), json!({"status_code": 500})];
    let all = || {
        let calls = calls.iter().zip(bodies.iter().cycle());
        try_join_all(calls.map(|(call, body)| complete(&service, call, body)))
    };
    let count = |answers: &[Answer], status: u16| answers.iter().filter(|a| a.status == status).count();

    let fresh = timeout(SOON, all()).await.context("outcomes wait for the projection")??;
    assert_eq!(count(&fresh, 202), CALLS);
    assert!(fresh.iter().all(|answer| answer.header("ledger-seq").is_some()));
    let again = timeout(SOON, all()).await.context("repetitions wait for the projection")??;
    assert_eq!(count(&again, 200), CALLS);
    complete(&service, &calls[0], &json!({"status_code": 404})).await?.expect(409)?;
    // A call that nobody has recorded may be one of another process: it is waited for, and for no other.
    let unknown = world.env.ids.event_id().to_string();
    let (answer, other) = tokio::join!(
        complete(&service, &unknown, &bodies[0]),
        timeout(SOON, complete(&service, &calls[0], &bodies[0]))
    );
    answer?.expect(503)?;
    other.context("an outcome waits for that of another call")??.expect(200)?;

    world.start_worker();
    for user in 0..users.len() {
        assert_eq!(world.summary(&format!("user-{user}")).await?, (20, 0));
    }
    complete(&service, &unknown, &bodies[0]).await?.expect(404)?;
    assert_eq!(count(&all().await?, 200), CALLS);
    assert_eq!(world.text("SELECT count(*)::text FROM dead_letters").await?, "0");
    assert_eq!(world.differences().await?, [""; 0]);
    Ok(())
}

/// Another instance has completed the call first; this one could not know.
#[tokio::test]
async fn of_two_instances_the_first_one_in_the_log_has_completed_the_call() -> Result<()> {
    let mut world = World::without_worker(&[]).await?;
    let (user, service) = (world.user("both")?, world.service()?);
    let call = call_id(&world, &user, "/api/x").await?;
    let other = CallCompleted {
        call_id: call.parse()?,
        call_time: admitted_at(&world).await?,
        status_code: 502,
        response_time_ms: None,
        response_size: None,
        counted: false,
    };
    let user_id = world.user_id("both").await?;
    let event =
        Event::by_api(world.env.ids.event_id(), user_id, world.env.clock.now(), Body::CallCompleted(other));
    let first = world.api.handle.publisher.publish(EncodedEvent::of(&event)).await?.seq;

    let ours = json!({"status_code": 200});
    let answer = complete(&service, &call, &ours).await?.expect(202)?;
    assert!(world.api.handle.publisher.last_acked() > first, "{:?}", answer.header("ledger-seq"));
    complete(&service, &call, &ours).await?.expect(200)?;
    world.start_worker();
    world.wait_until_projected().await?;
    complete(&service, &call, &ours).await?.expect(409)?;
    let answer = complete(&service, &call, &json!({"status_code": 502})).await?.expect(200)?;
    assert_eq!(answer.json()?["counted"], false);
    assert_eq!(world.summary("both").await?, (0, 0));
    assert_eq!(world.text("SELECT count(*)::text FROM dead_letters").await?, "0");
    assert_eq!(world.differences().await?, [""; 0]);
    Ok(())
}

/// Instant of the log's first event, a call.
async fn admitted_at(world: &World) -> Result<DateTime<Utc>> {
    let frame = world.api.handle.log.frame_at(1).await?.context("the log is empty")?;
    let event = events::decode_batch(&frame.body)?.into_iter().next().context("no event")??;
    Ok(event.time)
}

#[tokio::test]
async fn a_process_that_has_forgotten_the_call_finds_its_row() -> Result<()> {
    let world = World::start().await?;
    let (user, service) = (world.user("forgotten")?, world.service()?);
    let mut calls = Vec::new();
    for _ in 0..10 {
        calls.push(call_id(&world, &user, "/api/analyze").await?);
    }
    let checked = json!({"user_id": "erased", "endpoint": "/api/analyze", "record": true});
    let checked = service.post("/api/usage/check").json(&checked).send().await?.expect(200)?.json()?;
    let of_erased = checked["call_id"].as_str().context("call_id")?.to_owned();
    let erase = world.client("admin", Role::Admin)?.post("/api/users/erased/erase").json(&json!({})).send();
    let erased = erase.await?;
    assert!(erased.status.is_success(), "{}", erased.text());

    let world = world.restart_api(&[]).await?;
    world.wait_until_open().await;
    let (user, service) = (world.user("forgotten")?, world.service()?);
    world.call(&user, "/api/analyze").await?.expect(429)?;
    let failed = json!({"status_code": 500});
    for call in &calls[..2] {
        complete(&service, call, &failed).await?.expect(202)?;
        complete(&service, call, &failed).await?.expect(200)?;
    }
    complete(&service, &of_erased, &json!({"status_code": 200})).await?.expect(202)?;
    world.wait_until_projected().await?;
    for expected in [204, 204, 429] {
        world.call(&user, "/api/analyze").await?.expect(expected)?;
    }
    assert_eq!(world.rows("forgotten", "analyze").await?, (12, 10));
    assert_eq!(world.differences().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn who_when_and_what() -> Result<()> {
    let world = World::start().await?;
    let (user, service) = (world.user("strict")?, world.service()?);
    let call = call_id(&world, &user, "/api/x").await?;
    complete(&user, &call, &json!({"status_code": 500})).await?.expect(403)?;
    let stranger = testkit::Client::new(&world.api.url)?;
    complete(&stranger, &call, &json!({"status_code": 500})).await?.expect(401)?;
    for unknown in [world.env.ids.event_id().to_string(), world.env.ids.random_id().to_string()] {
        complete(&service, &unknown, &json!({"status_code": 200})).await?.expect(404)?;
    }
    complete(&service, "seven", &json!({"status_code": 200})).await?.expect(422)?;
    let wrong = [
        (json!({"status_code": 99}), "/status_code"),
        (json!({"status_code": 600}), "/status_code"),
        (json!({"status_code": "200"}), "/status_code"),
        (json!({}), "/status_code"),
        (json!({"status_code": 200, "response_time_ms": -1}), "/response_time_ms"),
        (json!({"status_code": 200, "response_time_ms": 3_000_000_000_u32}), "/response_time_ms"),
        (json!({"status_code": 200, "response_size": 10_000_000_000_000_000_000_u64}), "/response_size"),
        (json!({"status_code": 200, "body": ""}), "/body"),
    ];
    for (body, pointer) in wrong {
        let answer = complete(&service, &call, &body).await?.expect(422)?;
        assert_eq!(answer.json()?["errors"][0]["pointer"], pointer, "{body}");
    }
    let now = world.env.clock.now();
    world.env.clock.set(now + TimeDelta::minutes(61));
    complete(&world.service()?, &call, &json!({"status_code": 500})).await?.expect(409)?;
    assert_eq!(world.summary("strict").await?, (1, 0));
    Ok(())
}
