//! `POST /api/usage/calls/{call_id}/outcome`.

use anyhow::{Context, Result};
use chrono::TimeDelta;
use serde_json::{Value, json};
use testkit::{Answer, Client, World};

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
    let answer = complete(&service, &calls[0], &json!({"status_code": 503, "response_time_ms": 12}))
        .await?
        .expect(200)?;
    assert_eq!(answer.json()?["counted"], false);
    assert!(answer.header("ledger-seq").is_some());
    world.call(&user, "/api/analyze").await?.expect(204)?;
    world.call(&user, "/api/analyze").await?.expect(429)?;
    complete(&service, &calls[1], &json!({"status_code": 200, "response_size": 9})).await?.expect(200)?;
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
    Ok(())
}

#[tokio::test]
async fn completing_a_call_is_counted_like_our_other_routes() -> Result<()> {
    let world = World::start().await?;
    let call = call_id(&world, &world.user("reported")?, "/api/x").await?;
    complete(&world.service()?, &call, &json!({"status_code": 200})).await?.expect(200)?;
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
    let first = complete(&service, &call, &body).await?.expect(200)?;
    assert_eq!(complete(&service, &call, &body).await?.expect(200)?.body, first.body);
    assert_eq!(complete(&service, &call, &other).await?.expect(409)?.code(), "conflict");
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
    let answers =
        futures_util::future::try_join_all(bodies.iter().map(|body| complete(&service, &call, body))).await?;
    let good = answers.iter().filter(|answer| answer.status == 200).count();
    let conflicts = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!((good, conflicts), (1, 9));
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
