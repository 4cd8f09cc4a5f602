//! `POST /api/usage/events`: what is accepted counts once, and one bad item never sinks the others.

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use events::{Body, ClaimsTurned, Event, SOURCE_WORKER};
use futures_util::future::try_join_all;
use nats::EncodedEvent;
use serde_json::{Value, json};
use store::identity::users::NewUser;
use testkit::{Answer, Client, Role, World};

fn event(id: usize, user: &str) -> Value {
    json!({"id": format!("e-{id}"), "subject": user, "data": {"endpoint": "/api/analyze", "status_code": 200}})
}

async fn report(client: &Client, body: &Value) -> Result<Answer> {
    client.post("/api/usage/events").json(body).send().await
}

fn counts(answer: &Answer) -> Result<(u64, u64, u64)> {
    let body = answer.json()?;
    let count = |name: &str| body[name].as_u64().with_context(|| format!("no {name} in {body}"));
    Ok((count("accepted")?, count("duplicates")?, count("rejected")?))
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

#[tokio::test]
async fn one_bad_item_in_a_thousand() -> Result<()> {
    let world = World::start().await?;
    let mut events: Vec<Value> = (0..1_000).map(|n| event(n, &format!("user-{}", n % 7))).collect();
    events[437]["data"]["status_code"] = json!(99);
    let answer = report(&world.service()?, &json!(events)).await?.expect(202)?;
    assert_eq!(counts(&answer)?, (999, 0, 1));
    let body = answer.json()?;
    let items = body["items"].as_array().context("items")?;
    assert_eq!(items.len(), 1_000);
    for (index, item) in items.iter().enumerate() {
        assert_eq!((&item["index"], &item["id"]), (&json!(index), &json!(format!("e-{index}"))));
        assert_eq!(item["status"] == "rejected", index == 437);
    }
    assert_eq!(items[437]["error"]["pointer"], "/data/status_code");
    assert_eq!(items[437]["error"]["code"], "invalid_status_code");
    assert_eq!(body["position"].as_str(), answer.header("ledger-seq"));
    world.wait_until_projected().await?;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM api_usage").fetch_one(world.env.pool()).await?;
    assert_eq!(rows, 999);
    // The retry of the whole request changes nothing.
    assert_eq!(counts(&report(&world.service()?, &json!(events)).await?.expect(202)?)?, (0, 999, 1));
    world.wait_until_projected().await?;
    let units: i64 = sqlx::query_scalar("SELECT sum(total_calls)::bigint FROM monthly_usage_summary")
        .fetch_one(world.env.pool())
        .await?;
    assert_eq!(units, 999);
    Ok(())
}

/// `ledger_calls_total` of this process, of counted calls of category auth.
fn auth_calls_total() -> Result<u64> {
    let metrics = api::operations::metrics::install().context("another recorder")?.render();
    let wanted = r#"ledger_calls_total{category="auth",counted="true"} "#;
    let value = metrics.lines().find_map(|line| line.strip_prefix(wanted));
    Ok(value.map_or(Ok(0), str::parse)?)
}

#[tokio::test]
async fn reported_calls_are_in_the_metrics_duplicates_are_not() -> Result<()> {
    // The counters are the process's: other tests may add to them, but no thousand calls of auth.
    let before = auth_calls_total()?;
    let world = World::start().await?;
    let mut events: Vec<Value> = (0..1_000).map(|n| event(n, "measured")).collect();
    for event in &mut events {
        event["data"]["endpoint"] = json!("/api/auth/login");
    }
    for _ in 0..2 {
        report(&world.service()?, &json!(events)).await?.expect(202)?;
    }
    let counted = auth_calls_total()? - before;
    assert!((1_000..1_500).contains(&counted), "{counted}");
    Ok(())
}

#[tokio::test]
async fn the_same_event_counts_once_however_it_comes() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    // Twice in one request, then at once by many, then after a restart.
    let twice = report(&service, &json!([event(1, "often"), event(1, "often"), event(2, "often")]))
        .await?
        .expect(202)?;
    assert_eq!(counts(&twice)?, (2, 1, 0));
    assert_eq!(twice.json()?["items"][1]["status"], "duplicate");
    let same = json!([event(3, "often"), event(1, "often")]);
    try_join_all((0..20).map(|_| report(&service, &same))).await?;
    let world = world.restart_api(&[]).await?;
    world.wait_until_open().await;
    let service = world.service()?;
    report(&service, &json!(event(3, "often"))).await?.expect(202)?;
    // Another source, and another user with the same id, are other events.
    let mut other_source = event(1, "often");
    other_source["source"] = json!("elsewhere");
    assert_eq!(counts(&report(&service, &json!([other_source, event(1, "another")])).await?)?, (2, 0, 0));
    assert_eq!(world.summary("often").await?, (4, 4));
    assert_eq!(world.summary("another").await?, (1, 1));
    assert_eq!(world.rows("often", "analyze").await?, (4, 4));
    Ok(())
}

#[tokio::test]
async fn a_retry_without_a_time_counts_once_across_a_month_s_end() -> Result<()> {
    let world = World::start().await?;
    world.env.clock.set("2026-11-30T23:59:58Z".parse()?);
    report(&world.service()?, &event(1, "month-end")).await?.expect(202)?;
    world.env.clock.set("2026-12-01T00:00:05Z".parse()?);
    let world = world.restart_api(&[]).await?;
    world.wait_until_open().await;
    report(&world.service()?, &event(1, "month-end")).await?.expect(202)?;
    assert_eq!(world.summary("month-end").await?, (1, 1));
    let months: Vec<String> =
        sqlx::query_scalar("SELECT month_year FROM api_usage").fetch_all(world.env.pool()).await?;
    assert_eq!(months, ["2026-11"]);
    Ok(())
}

#[tokio::test]
async fn old_reports_are_known_by_the_database() -> Result<()> {
    let world = World::start().await?;
    let mut old = event(1, "old");
    old["time"] = json!(text(world.env.clock.now() - TimeDelta::days(20)));
    assert_eq!(counts(&report(&world.service()?, &old).await?)?, (1, 0, 0));
    world.wait_until_projected().await?;
    let world = world.restart_api(&[]).await?;
    world.wait_until_open().await;
    assert_eq!(
        counts(&report(&world.service()?, &old).await?)?,
        (0, 1, 0),
        "a process that has not seen the first"
    );
    Ok(())
}

/// What is said of it is what becomes of it, also when its id is forgotten.
#[tokio::test]
async fn a_backfill_is_known_for_ever_by_its_id_and_time() -> Result<()> {
    let world = World::start().await?;
    let at = |days: i64| json!(text(world.env.clock.now() - TimeDelta::days(days)));
    let (mut ancient, mut recent) = (event(1, "old"), event(2, "old"));
    (ancient["time"], recent["time"]) = (at(400), at(20));
    let reports = json!([ancient, recent]);
    let backfill = async |world: &World, body: &Value| {
        let request = world.service()?.post("/api/usage/events").header("X-Backfill", "true");
        request.json(body).send().await?.expect(202)
    };
    assert_eq!(counts(&backfill(&world, &reports).await?)?, (2, 0, 0));
    for generation in 0..2 {
        let body = Body::ClaimsTurned(ClaimsTurned { generation });
        let event = Event::own(SOURCE_WORKER, world.env.ids.event_id(), None, world.env.clock.now(), body);
        world.api.handle.publisher.publish(EncodedEvent::of(&event)).await?;
    }
    world.wait_until_projected().await?;
    let claims: i64 =
        sqlx::query_scalar("SELECT count(*) FROM event_claims").fetch_one(world.env.pool()).await?;
    assert_eq!(claims, 0);
    let world = world.restart_api(&[]).await?;
    world.wait_until_open().await;
    // One that could be reported without being a backfill has a claim, unless the horizon is shorter than it may be.
    let answer = backfill(&world, &reports).await?.json()?;
    assert_eq!(
        (&answer["items"][0]["status"], &answer["items"][1]["status"]),
        (&json!("duplicate"), &json!("accepted"))
    );
    ancient["time"] = json!(text(world.env.clock.now() - TimeDelta::days(401)));
    assert_eq!(counts(&backfill(&world, &json!(ancient)).await?)?, (1, 0, 0), "another call");
    world.wait_until_projected().await?;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM api_usage").fetch_one(world.env.pool()).await?;
    assert_eq!(rows, 3);
    Ok(())
}

#[tokio::test]
async fn times_are_taken_from_a_window() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    let now = world.env.clock.now();
    let at = |id: usize, time: &str| {
        let mut event = event(id, "timed");
        event["time"] = json!(time);
        event
    };
    let times = [
        (text(now - TimeDelta::days(34)), true, true),
        (text(now + TimeDelta::minutes(4)), true, true),
        ("2026-11-24T05:00:00+02:00".to_owned(), true, true),
        (text(now - TimeDelta::days(36)), false, true),
        (text(now + TimeDelta::minutes(6)), false, false),
        ("2000-01-01T00:00:00Z".to_owned(), false, true),
        ("1999-12-31T23:59:59Z".to_owned(), false, false),
        ("1970-01-01T00:00:00Z".to_owned(), false, false),
        ("9999-12-31T23:59:59Z".to_owned(), false, false),
    ];
    world.env.clock.set("2026-11-24T03:00:30Z".parse()?);
    let now = world.env.clock.now();
    for (index, (time, live, backfill)) in times.iter().enumerate() {
        let time = if index < 2 || (3..5).contains(&index) {
            let shift = [
                TimeDelta::days(-34),
                TimeDelta::minutes(4),
                TimeDelta::zero(),
                TimeDelta::days(-36),
                TimeDelta::minutes(6),
            ];
            text(now + shift[index])
        } else {
            time.clone()
        };
        let answer = report(&service, &at(index, &time)).await?;
        assert_eq!(answer.status == 202, *live, "{time}: {}", answer.text());
        if !live {
            let answer = answer.expect(422)?.json()?;
            assert_eq!(answer["items"][0]["error"]["code"], "time_out_of_range");
            assert_eq!(answer["items"][0]["error"]["pointer"], "/time");
        }
        let request = service.post("/api/usage/events").header("X-Backfill", "true");
        let answer = request.json(&at(index + 100, &time)).send().await?;
        assert_eq!(answer.status == 202, *backfill, "{time}: {}", answer.text());
    }
    let odd =
        service.post("/api/usage/events").header("X-Backfill", "maybe").json(&at(200, "x")).send().await?;
    odd.expect(400)?;
    let answer = report(&service, &at(200, "yesterday")).await?.expect(422)?;
    assert_eq!(answer.json()?["items"][0]["error"]["pointer"], "/time");
    Ok(())
}

#[tokio::test]
async fn a_user_reports_its_own_calls_only() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("reporter")?;
    let mut own = event(1, "reporter");
    own.as_object_mut().context("an object")?.remove("subject");
    assert_eq!(counts(&report(&user, &own).await?.expect(202)?)?, (1, 0, 0));
    let id = world.user_id("reporter").await?.to_string();
    let answer =
        report(&user, &json!([event(2, "reporter"), event(3, &id), event(4, "somebody"), event(5, "me")]))
            .await?;
    assert_eq!(counts(&answer.clone().expect(202)?)?, (2, 0, 2));
    assert_eq!(answer.json()?["items"][2]["error"]["code"], "unknown_user");
    let backfill = user
        .post("/api/usage/events")
        .header("X-Backfill", "true")
        .json(&event(6, "reporter"))
        .send()
        .await?;
    backfill.expect(403)?;
    assert_eq!(world.summary("reporter").await?, (3, 3));
    let made: i64 = sqlx::query_scalar("SELECT count(*) FROM public.users WHERE external_id = 'somebody'")
        .fetch_one(world.env.pool())
        .await?;
    assert_eq!(made, 0);
    // A service must say whose call it was.
    let answer = report(&world.service()?, &own).await?.expect(422)?;
    assert_eq!(answer.json()?["errors"][0]["pointer"], "/subject");
    let world = World::with(&[("USER_INGEST", "false"), ("AUTO_PROVISION", "true")]).await?;
    report(&world.user("reporter")?, &own).await?.expect(403)?;
    report(&world.client("boss", Role::Admin)?, &event(1, "x")).await?.expect(202)?;
    Ok(())
}

#[tokio::test]
async fn without_provisioning_a_stranger_s_event_is_rejected() -> Result<()> {
    let world = World::with(&[("AUTO_PROVISION", "false")]).await?;
    let ids = [world.env.ids.random_id(), world.env.ids.random_id()];
    let mut conn = world.env.pool().acquire().await?;
    let new = |id, name: &str| -> Result<NewUser> {
        Ok(NewUser { external_id: Some(name.parse()?), ..NewUser::unnamed(id) })
    };
    let users = vec![new(ids[0], "backend")?, new(ids[1], "known")?];
    store::identity::users::provision(&mut conn, users, world.env.clock.now()).await?;
    drop(conn);
    let answer =
        report(&world.service()?, &json!([event(1, "known"), event(2, "stranger")])).await?.expect(202)?;
    assert_eq!(counts(&answer)?, (1, 0, 1));
    assert_eq!(answer.json()?["items"][1]["error"]["code"], "unknown_user");
    Ok(())
}

#[tokio::test]
async fn an_address_mapped_into_ipv6_is_the_user_of_its_ipv4_and_recorded_so() -> Result<()> {
    let world = World::start().await?;
    for (id, address) in [("one", "192.0.2.10"), ("two", "::ffff:192.0.2.10"), ("three", "::FFFF:c000:20a")] {
        let call = json!({"id": id, "subject": address, "data": {"endpoint": "/", "ip_address": address}});
        report(&world.service()?, &call).await?.expect(202)?;
    }
    world.wait_until_projected().await?;
    let rows: (i64, i64, String) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT user_id), min(ip_address) || max(ip_address) FROM api_usage",
    )
    .fetch_one(world.env.pool())
    .await?;
    assert_eq!(rows, (3, 1, "192.0.2.10192.0.2.10".to_owned()));
    Ok(())
}

#[tokio::test]
async fn the_row_says_what_was_reported() -> Result<()> {
    let world = World::start().await?;
    let full = json!({"id": "full", "subject": "full", "source": "gateway", "time": "2026-11-01T12:00:00.123456789+01:00",
        "data": {"endpoint": "/api/auth//login/../token?x=1", "method": "POST", "status_code": 201, "response_time_ms": 41,
                 "ip_address": "2001:db8::1", "user_agent": format!("{}é", "a".repeat(255)), "request_size": 10,
                 "response_size": 4_000_000_000_u64, "units": 3}});
    world.env.clock.set("2026-11-24T03:00:00Z".parse()?);
    report(&world.service()?, &full).await?.expect(202)?;
    let failed =
        json!({"id": "5xx", "subject": "full", "data": {"endpoint": "/api/analyze", "status_code": 500}});
    report(&world.service()?, &failed).await?.expect(202)?;
    world.wait_until_projected().await?;
    let row: Value = sqlx::query_scalar(
        "SELECT to_jsonb(u) - 'id' - 'user_id' - 'log_seq' - 'log_idx' - 'user_agent' FROM api_usage u
         WHERE category = 'auth'",
    )
    .fetch_one(world.env.pool())
    .await?;
    let expected = json!({"endpoint": "/api/auth/token", "method": "POST", "status_code": 201, "response_time_ms": 41,
        "ip_address": "2001:db8::1", "request_size": 10, "response_size": 4_000_000_000_u64, "units": 3, "category": "auth",
        "counted": true, "created_at": "2026-11-01T11:00:00.123456+00:00", "month_year": "2026-11", "completed_seq": null, "key_id": null});
    assert_eq!(row, expected);
    let agent: String = sqlx::query_scalar("SELECT user_agent FROM api_usage WHERE category = 'auth'")
        .fetch_one(world.env.pool())
        .await?;
    assert_eq!(agent.len(), 255);
    assert_eq!(world.summary("full").await?, (3, 0), "a 5xx does not count");
    Ok(())
}
