//! Users whose data keys do not open: their calls are not recorded, everybody else's are.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{World, wait_until};

fn event(id: &str, user: &str, is_personal: bool) -> Value {
    let mut data = json!({"endpoint": "/api/analyze", "status_code": 200});
    if is_personal {
        data["ip_address"] = json!("192.0.2.1");
    }
    json!({"id": id, "subject": user, "data": data, "type": "call", "source": "test", "specversion": "1.0"})
}

/// Three users with keys; one's row is damaged then, another's is of a root key that nobody has.
async fn world() -> Result<World> {
    let world = World::start().await?;
    let users = ["good", "damaged", "foreign"];
    let events: Vec<Value> = users.iter().map(|user| event("first", user, true)).collect();
    world.service()?.post("/api/usage/events").json(&json!(events)).send().await?.expect(202)?;
    world.wait_until_projected().await?;
    for (user, change) in [
        ("damaged", "sealed = jsonb_set(sealed::jsonb, '{tag}', to_jsonb(repeat('0', 64)))::json"),
        ("foreign", r#"kid = 'k0', sealed = jsonb_set(sealed::jsonb, '{kid}', '"k0"')::json"#),
    ] {
        let rows = sqlx::query(&format!("UPDATE public.user_data_keys SET {change} WHERE user_id = $1"))
            .bind(world.user_id(user).await?.get())
            .execute(world.env.pool())
            .await?
            .rows_affected();
        anyhow::ensure!(rows == 1, "{user} has no key");
    }
    // With nothing in memory.
    let world = world.restart_api(&[]).await?;
    world.wait_until_open().await;
    Ok(world)
}

async fn acknowledged(world: &World) -> Result<u64> {
    Ok(world.api.handle.log.state().await?.last_seq)
}

#[tokio::test]
async fn items_of_a_user_whose_data_key_does_not_open_are_rejected_and_the_others_taken_in() -> Result<()> {
    let world = world().await?;
    let mut events: Vec<Value> = (0..100).map(|n| event(&format!("e-{n}"), "good", true)).collect();
    events[10] = event("e-10", "damaged", true);
    events[20] = event("e-20", "foreign", true);
    // Said twice: no duplicate of what is rejected. And nothing is to be sealed of this one.
    events[30] = event("e-10", "damaged", true);
    events[40] = event("e-40", "damaged", false);
    let answer = world.service()?.post("/api/usage/events").json(&json!(events)).send().await?.expect(202)?;
    let body = answer.json()?;
    let count = |name: &str| body[name].as_u64();
    assert_eq!((count("accepted"), count("duplicates"), count("rejected")), (Some(97), Some(0), Some(3)));
    let items = body["items"].as_array().context("items")?;
    for (index, code) in [(10, "internal"), (20, "encryption_key_missing"), (30, "internal")] {
        assert_eq!(items[index]["error"]["code"], code, "{}", items[index]);
        assert_eq!(items[index]["error"]["pointer"], "/subject");
    }
    let detail = &items[20]["error"]["detail"];
    assert!(detail.as_str().is_some_and(|detail| detail.contains("k0")), "{detail}");

    assert_eq!(world.rows("good", "analyze").await?, (97, 97));
    assert_eq!(world.rows("damaged", "analyze").await?, (2, 2));
    assert_eq!(world.rows("foreign", "analyze").await?, (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_request_of_which_nothing_can_be_sealed_is_refused_and_may_be_sent_again() -> Result<()> {
    let world = world().await?;
    let before = acknowledged(&world).await?;
    for (user, status, code) in [("foreign", 503, "encryption_key_missing"), ("damaged", 500, "internal")] {
        let report = json!([event("e-1", user, true), event("e-2", user, true)]);
        let request = world.service()?.post("/api/usage/events").header("Idempotency-Key", user);
        let answer = request.json(&report).send().await?.expect(status)?;
        assert_eq!(answer.json()?["code"], code, "{user} in a report");
        let request = world.user(user)?.get("/api/forward-auth").header("X-Forwarded-Uri", "/api/analyze");
        let request = request.header("X-Forwarded-Method", "GET").header("User-Agent", "curl/8");
        let answer = request.send().await?.expect(status)?;
        assert_eq!(answer.json()?["code"], code, "{user} at forward-auth");
    }
    assert_eq!(
        acknowledged(&world).await?,
        before,
        "nothing is recorded without what is known of the person"
    );

    // The key is back: the same request is not answered from memory.
    sqlx::query(r#"UPDATE public.user_data_keys SET kid = 'k1', sealed = jsonb_set(sealed::jsonb, '{kid}', '"k1"')::json WHERE kid = 'k0'"#)
        .execute(world.env.pool())
        .await?;
    let report = json!([event("e-1", "foreign", true), event("e-2", "foreign", true)]);
    let request = world.service()?.post("/api/usage/events").header("Idempotency-Key", "foreign");
    request.json(&report).send().await?.expect(202)?;
    Ok(())
}

#[tokio::test]
async fn a_destroyed_key_is_forgotten_within_a_second() -> Result<()> {
    let world = World::start().await?;
    let report = json!([event("e-1", "alice", true), event("e-2", "bob", true)]);
    world.service()?.post("/api/usage/events").json(&report).send().await?.expect(202)?;
    let (alice, bob) = (world.user_id("alice").await?, world.user_id("bob").await?);
    let is_cached = |user| world.api.handle.keys.cached(user).is_some();
    assert!(is_cached(alice) && is_cached(bob));
    let destroy = "WITH gone AS (DELETE FROM public.user_data_keys WHERE user_id = $1 RETURNING user_id)
                   SELECT pg_notify('ledger_users', user_id::text) FROM gone";
    sqlx::query(destroy).bind(alice.get()).execute(world.env.pool()).await?;
    wait_until(Duration::from_secs(1), || async { !is_cached(alice) }).await;
    assert!(is_cached(bob));
    Ok(())
}
