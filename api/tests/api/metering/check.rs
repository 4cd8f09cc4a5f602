//! `POST /api/usage/check`.

use anyhow::{Context, Result};
use chrono::TimeDelta;
use ledger::Month;
use serde_json::{Value, json};
use testkit::{Answer, Client, Role, World};

async fn check(client: &Client, body: &Value) -> Result<Answer> {
    client.post("/api/usage/check").json(body).send().await
}

#[tokio::test]
async fn a_check_tells_and_takes_nothing() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("asking")?;
    for _ in 0..20 {
        let answer =
            check(&user, &json!({"endpoint": "/api/analyze?x", "method": "POST"})).await?.expect(200)?;
        let body = answer.json()?;
        assert_eq!(body["allowed"], true);
        assert_eq!(
            (&body["meter"], &body["limit"], &body["used"]),
            (&json!("analyze"), &json!(10), &json!(0))
        );
        assert_eq!((&body["remaining"], &body["status"]), (&json!(10), &json!("ok")));
        assert_eq!(
            body["meters"]["total"],
            json!({"used": 0, "limit": 50, "remaining": 50, "percentage": 0.0, "status": "ok"})
        );
        assert!(body.get("call_id").is_none());
        assert_eq!(answer.header("x-usage-limit"), Some("10"));
    }
    let too_many =
        check(&user, &json!({"endpoint": "/api/analyze", "units": 11})).await?.expect(200)?.json()?;
    assert_eq!((&too_many["allowed"], &too_many["meter"]), (&json!(false), &json!("analyze")));
    let body = check(&user, &json!({"endpoint": "/api/x", "units": 50})).await?.expect(200)?.json()?;
    assert_eq!((&body["allowed"], &body["meter"]), (&json!(true), &json!("total")));
    assert_eq!(world.api.handle.log.state().await?.last_seq, 0, "nothing is recorded");
    Ok(())
}

#[tokio::test]
async fn a_recorded_check_is_a_call() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    let body = json!({"user_id": "customer", "endpoint": "/api/analyze", "method": "GET", "units": 4, "record": true});
    service.put("/api/users/customer").json(&json!({})).send().await?.expect(201)?;
    for used in [4, 8] {
        let answer = check(&service, &body).await?.expect(200)?;
        assert!(answer.header("ledger-seq").is_some());
        let answer = answer.json()?;
        assert_eq!((&answer["allowed"], &answer["used"]), (&json!(true), &json!(used)));
        assert_eq!(answer["call_id"].as_str().context("call_id")?.len(), 36);
    }
    let refused = check(&service, &body).await?.expect(200)?.json()?;
    assert_eq!((&refused["allowed"], &refused["used"]), (&json!(false), &json!(8)), "all units or none");
    assert!(refused.get("call_id").is_none());
    assert_eq!(world.rows("customer", "analyze").await?, (2, 8));
    Ok(())
}

#[tokio::test]
async fn a_check_provisions_as_ingest_does_and_a_user_s_word_makes_nobody() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    let accounts = || async {
        let count = "SELECT count(*) FROM public.users WHERE external_id LIKE 'new-%'";
        sqlx::query_scalar::<_, i64>(count).fetch_one(world.env.pool()).await
    };
    let call =
        |user: &str, record: bool| json!({"user_id": user, "endpoint": "/api/analyze", "record": record});
    let preview = check(&service, &call("new-1", false)).await?.expect(200)?.json()?;
    assert_eq!((&preview["allowed"], &preview["used"]), (&json!(true), &json!(0)));
    let recorded = check(&service, &call("new-2", true)).await?.expect(200)?.json()?;
    assert_eq!((&recorded["allowed"], &recorded["used"]), (&json!(true), &json!(1)));
    assert_eq!(accounts().await?, 2);
    // A UUID is our id, and names whoever it names from then on.
    let id = world.env.ids.random_id().to_string();
    check(&service, &call(&id, true)).await?.expect(200)?;
    assert_eq!(check(&service, &call(&id, false)).await?.expect(200)?.json()?["used"], 1);
    // A user names nobody else, and none is made on its word.
    let user = world.user("asking")?;
    for (named, record) in [("new-3", false), ("new-3", true), ("new-1", true)] {
        check(&user, &call(named, record)).await?.expect(404)?;
    }
    assert_eq!(accounts().await?, 2);
    // What is no name makes nobody, and an erased user never comes back.
    check(&service, &call("\u{1}", true)).await?.expect(404)?;
    let admin = world.client("admin", Role::Admin)?;
    let erased = admin.post("/api/users/new-1/erase").json(&json!({})).send().await?;
    assert!(erased.status.is_success(), "{}", erased.text());
    for record in [false, true] {
        let answer = check(&service, &call("new-1", record)).await?;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (409, "subject_erased"),
            "{}",
            answer.text()
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_same_key_records_once() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("keyed")?;
    let body = json!({"endpoint": "/api/analyze", "record": true});
    let send = || user.post("/api/usage/check").header("Idempotency-Key", "k-1").json(&body).send();
    let first = send().await?.expect(200)?;
    let again = send().await?.expect(200)?;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.body, again.body);
    let own = ["content-type", "ledger-seq", "ratelimit", "ratelimit-policy"];
    let usage = ["plan", "limit", "used", "remaining", "reset"].map(|name| format!("x-usage-{name}"));
    for name in own.into_iter().chain(usage.iter().map(String::as_str)) {
        assert!(first.header(name).is_some(), "{name}");
        assert_eq!(first.header(name), again.header(name), "{name}");
    }
    assert_ne!(first.header("x-request-id"), again.header("x-request-id"));
    assert_eq!(world.rows("keyed", "analyze").await?, (1, 1));
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_checked_is_said() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("wrong")?;
    let wrong = [
        (json!({"endpoint": "/api/x", "reserve": true}), 422, "/reserve"),
        (json!({"endpoint": "/api/x", "units": 0}), 422, "/units"),
        (json!({"endpoint": "/api/x", "units": 1_000_001}), 422, "/units"),
        (json!({"endpoint": "/api/x", "units": 1e300}), 422, "/units"),
        (json!({"endpoint": "/api/x", "method": "A B"}), 422, "/method"),
        (json!({"endpoint": "/api/x", "cost": 1}), 422, "/cost"),
        (json!({"endpoint": "not a path"}), 422, "/endpoint"),
        (json!({"endpoint": format!("/{}", "x".repeat(3_000))}), 422, "/endpoint"),
        (json!({"endpoint": 7}), 422, "/endpoint"),
        (json!({}), 422, "/endpoint"),
    ];
    for (body, status, pointer) in wrong {
        let answer = check(&user, &body).await?;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text());
        assert_eq!(answer.json()?["errors"][0]["pointer"], pointer, "{body}: {}", answer.text());
    }
    for path in ["/a%2fb", "/a%5Cb", "/a\\b", "/a\u{0}b", "/a%00b"] {
        let answer = check(&user, &json!({"endpoint": path})).await?.expect(400)?;
        assert!(
            answer.json()?["detail"].as_str().is_some_and(|detail| detail.starts_with("endpoint")),
            "{}",
            answer.text()
        );
    }
    check(&user, &json!({"endpoint": "/x", "user_id": "somebody-else"})).await?.expect(404)?;
    user.post("/api/usage/check").body("text/plain", "{}").send().await?.expect(415)?;
    user.post("/api/usage/check").body("application/json", "{").send().await?.expect(400)?;
    world
        .client("admin", Role::Admin)?
        .post("/api/usage/check")
        .json(&json!({"endpoint": "/x"}))
        .send()
        .await?
        .expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_retry_is_not_refused_while_the_first_try_may_still_count() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("retrying")?;
    let body = json!({"endpoint": "/api/analyze", "units": 11, "record": true});
    let send = || user.post("/api/usage/check").header("idempotency-key", "key").json(&body).send();
    let refused = send().await?.expect(200)?.json()?;
    assert_eq!(refused["allowed"], false);
    forget_answers(&world).await?;
    send().await?.expect(503)?;
    world.env.clock.set(world.env.clock.now() + TimeDelta::minutes(3));
    assert_eq!(send().await?.expect(200)?.json()?, refused);
    assert_eq!(send().await?.expect(200)?.header("idempotency-replayed"), Some("true"));
    Ok(())
}

/// Leaves the keys as if the process had died before it answered.
async fn forget_answers(world: &World) -> Result<()> {
    sqlx::query(
        "UPDATE public.idempotency_keys SET status_code = NULL, headers = NULL, response = NULL, locked_until = $1",
    )
    .bind(world.env.clock.now())
    .execute(world.env.pool())
    .await?;
    Ok(())
}

/// A first try that died in the last minute of a month is tried again in the next one, on a larger plan.
#[tokio::test]
async fn a_retry_is_decided_by_the_month_and_the_plan_of_its_first_try() -> Result<()> {
    let world = World::start().await?;
    let month = Month::of(world.env.clock.now()).next();
    world.env.clock.set(month.end() - TimeDelta::seconds(50));
    let user = world.user("past")?;
    let body = json!({"endpoint": "/api/x", "record": true});
    for _ in 1..50 {
        check(&user, &body).await?.expect(200)?;
    }
    let keyed = |client: &Client, key: &str| {
        client.post("/api/usage/check").header("idempotency-key", key).json(&body).send()
    };
    let last = keyed(&user, "recorded").await?.expect(200)?.json()?;
    assert_eq!((&last["allowed"], &last["used"]), (&json!(true), &json!(50)));
    let refused = keyed(&user, "refused").await?.expect(200)?.json()?;
    assert_eq!(refused["allowed"], false);
    assert_eq!(Month::of(world.env.clock.now()), month, "it took too long");
    forget_answers(&world).await?;

    world.env.clock.set(month.end() + TimeDelta::minutes(3));
    let user = world.user("past")?;
    user.post("/api/usage/upgrade").json(&json!({"plan": "pro"})).send().await?.expect(200)?;
    assert_eq!(check(&user, &body).await?.expect(200)?.json()?["limit"], 500);
    let again = keyed(&user, "refused").await?.expect(200)?;
    assert_eq!(again.header("x-usage-limit"), Some("50"));
    assert_eq!(again.json()?, refused);
    let again = keyed(&user, "recorded").await?.expect(200)?.json()?;
    assert_eq!(again, last, "it is the call that the first try has recorded");
    let by_month = "SELECT string_agg(month_year || ' ' || total_calls, ', ' ORDER BY month_year)
                    FROM monthly_usage_summary";
    world.wait_until_projected().await?;
    assert_eq!(world.text(by_month).await?, format!("{month} 50, {} 1", month.next()));
    Ok(())
}
