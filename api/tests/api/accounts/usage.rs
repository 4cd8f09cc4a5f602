//! What each key used: by history, by calls, and in agreement with what its user used.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Client, World};

use super::key;

/// Units by group of this month's history.
async fn groups(client: &Client, query: &str) -> Result<Vec<(String, u64)>> {
    let path = format!("/api/usage/history?granularity=month&group_by=key{query}");
    let history = client.get(&path).send().await?.expect(200)?.json()?;
    let items = history["items"].as_array().context("items")?;
    let groups = items.iter().map(|item| {
        let group = item["group"].as_str().unwrap_or_default().to_owned();
        (group, item["units"].as_u64().unwrap_or_default())
    });
    Ok(groups.collect())
}

async fn units(client: &Client, query: &str) -> Result<Value> {
    let path = format!("/api/usage/calls?{query}");
    Ok(client.get(&path).send().await?.expect(200)?.json()?["units"].clone())
}

#[tokio::test]
async fn usage_by_key_sums_to_the_user_s() -> Result<()> {
    let world = World::start().await?;
    let ada = world.user("ada")?;
    let ci = key(&world, "ada", &["check", "ingest"], json!({})).await?;
    let laptop = key(&world, "ada", &["check"], json!({"budget": 40})).await?;
    for (client, calls) in [(&ci.client, 3), (&laptop.client, 2), (&ada, 1)] {
        for _ in 0..calls {
            world.call(client, "/api/items").await?.expect(204)?;
        }
    }
    let check = json!({"endpoint": "/api/items", "units": 4, "record": true});
    ci.client.post("/api/usage/check").json(&check).send().await?.expect(200)?;
    // A call that a key reports of its own user came with it.
    let report = json!({"id": "1", "data": {"endpoint": "/x", "units": 5}});
    ci.client.post("/api/usage/events").json(&report).send().await?.expect(202)?;
    // One that a service's key reports of somebody else did not, whoever asks.
    let service = json!({"role": "service"});
    let service = key(&world, "backend", &["ingest", "check"], service).await?;
    let report = json!({"id": "2", "subject": "ada", "data": {"endpoint": "/x", "units": 6}});
    service.client.post("/api/usage/events").json(&report).send().await?.expect(202)?;
    let check = json!({"user_id": "ada", "endpoint": "/x", "record": true});
    service.client.post("/api/usage/check").json(&check).send().await?.expect(200)?;
    assert_eq!(world.summary("ada").await?, (22, 0));
    let mut expected = vec![(ci.id.clone(), 12), (laptop.id.clone(), 2), ("none".to_owned(), 8)];
    expected.sort();
    let mut found = groups(&ada, "").await?;
    found.sort();
    assert_eq!(found, expected);
    for (id, used) in &expected {
        assert_eq!(units(&ada, &format!("key={id}")).await?, *used, "{id}");
    }
    assert_eq!(groups(&ada, &format!("&key={}", ci.id)).await?, [(ci.id.clone(), 12)]);
    let path = format!("/api/usage/history?granularity=month&key={}", ci.id);
    let ungrouped = ada.get(&path).send().await?.expect(200)?.json()?;
    assert_eq!(ungrouped["items"][0]["units"], 12);
    ada.get("/api/usage/calls?key=x").send().await?.expect(422)?;
    assert_eq!(kept(&world).await?, "12,2");
    assert_eq!(world.differences().await?, Vec::<String>::new());
    let keys = world.text("SELECT count(*)::text FROM api_usage WHERE key_id IS NOT NULL").await?;
    assert_eq!(keys, "7");
    Ok(())
}

/// Units of the keys that the projection holds, most first.
async fn kept(world: &World) -> Result<String> {
    world.wait_until_projected().await?;
    world.text("SELECT string_agg(units::text, ',' ORDER BY units DESC) FROM monthly_key_usage").await
}

#[tokio::test]
async fn what_a_key_used_follows_outcomes_and_resets_and_is_mended() -> Result<()> {
    let world = World::start().await?;
    let (ada, service) = (world.user("ada")?, world.service()?);
    let made = key(&world, "ada", &["check"], json!({})).await?;
    let outcome = async |answer: testkit::Answer, status: u16| -> Result<()> {
        let id = answer.header("x-usage-call-id").context("a call id")?.to_owned();
        let path = format!("/api/usage/calls/{id}/outcome");
        service.post(&path).json(&json!({"status_code": status})).send().await?.expect(202)?;
        Ok(())
    };
    let call = async || world.call(&made.client, "/api/items").await?.expect(204);
    outcome(call().await?, 200).await?;
    outcome(call().await?, 503).await?;
    let late = call().await?;
    assert_eq!(kept(&world).await?, "2");
    let reset = ada.post("/api/usage/reset").json(&json!({"reason": "test"})).send().await?;
    reset.expect(200)?;
    assert_eq!(kept(&world).await?, "");
    // What ended before the reset gives nothing back after it.
    outcome(late, 503).await?;
    call().await?;
    assert_eq!(kept(&world).await?, "1");
    assert_eq!(world.differences().await?, Vec::<String>::new());
    world.tamper("UPDATE monthly_key_usage SET units = 7").await?;
    let found = world.differences().await?;
    assert!(found.len() == 1 && found[0].contains("monthly_key_usage"), "{found:?}");
    world.mend_summaries().await?;
    assert_eq!(kept(&world).await?, "1");
    assert_eq!(world.differences().await?, Vec::<String>::new());
    // Without a call that counts there is no row.
    outcome(call().await?, 500).await?;
    assert_eq!(kept(&world).await?, "1");
    Ok(())
}

#[tokio::test]
async fn a_use_is_noted_within_seconds() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let made = key(&world, "ada", &["read"], json!({})).await?;
    made.client.get("/api/usage/stats").send().await?.expect(200)?;
    let noted = || async {
        let query = "SELECT (count(*) FILTER (WHERE last_used_at IS NOT NULL))::text FROM public.api_keys";
        world.text(query).await.expect("a number") == "1"
    };
    testkit::wait_until(testkit::PATIENCE, noted).await;
    Ok(())
}
