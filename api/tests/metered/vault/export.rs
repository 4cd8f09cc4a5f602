//! All that is held about a user, without secrets.

use anyhow::Result;
use serde_json::json;
use testkit::Role;

use super::{GITHUB, store, token};
use crate::world::World;

#[tokio::test]
async fn an_export_holds_everything_of_one_user_and_no_secret() -> Result<()> {
    let world = World::start().await?;
    let (alice, bob) = (world.user("alice")?, world.user("bob")?);
    store(&alice, &token("github", GITHUB)).await?.expect(201)?;
    world.call(&alice, "/api/analyze").await?.expect(204)?;
    world.call(&bob, "/api/of-bob").await?.expect(204)?;
    alice.post("/api/usage/upgrade").json(&json!({"plan": "pro"})).send().await?.expect(200)?;
    let boss = world.client("boss", Role::Admin)?;
    boss.put("/api/users/alice").json(&json!({"email": "alice@example.org"})).send().await?.expect(200)?;
    world.wait_until_projected().await?;
    let answer = alice.get("/api/users/me/export").send().await?.expect(200)?;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let export = answer.json()?;
    assert_eq!(export["user"]["external_id"], "alice");
    assert_eq!(export["user"]["email"], "alice@example.org");
    assert_eq!(export["plan_changes"][0]["plan_name"], "pro");
    assert_eq!(export["months"][0]["analyze_calls"], 1);
    assert_eq!(export["tokens"][0]["masked"], "ghp_…wxyz");
    assert_eq!(export["token_audit"][0]["ip_address"], "127.0.0.1");
    let calls = export["calls"].as_array().unwrap();
    assert!(calls.iter().any(|call| call["endpoint"] == "/api/analyze"));
    assert!(export["as_of"]["position"].is_string());
    for secret in [GITHUB, "encrypted", "sealed", "of-bob", "external_id_hash"] {
        assert!(!answer.text().contains(secret), "{secret}");
    }
    let same = boss.get("/api/users/alice/export").send().await?.expect(200)?.json()?;
    assert_eq!(same["user"], export["user"]);
    bob.get("/api/users/alice/export").send().await?.expect(404)?;
    boss.get("/api/users/nobody/export").send().await?.expect(404)?;
    Ok(())
}

/// More than is kept in memory at once, each of it exactly once.
#[tokio::test]
async fn a_large_export_is_whole() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    for batch in 0..5 {
        let events: Vec<_> = (0..1_000)
            .map(|n| json!({"id": format!("{batch}-{n}"), "subject": "alice", "data": {"endpoint": format!("/{batch}/{n}")}}))
            .collect();
        service.post("/api/usage/events").json(&events).send().await?.expect(202)?;
    }
    world.wait_until_projected().await?;
    let export = world.user("alice")?.get("/api/users/me/export").send().await?.expect(200)?.json()?;
    let mut endpoints: Vec<&str> =
        export["calls"].as_array().unwrap().iter().filter_map(|call| call["endpoint"].as_str()).collect();
    assert_eq!(endpoints.len(), 5_000);
    endpoints.sort_unstable();
    endpoints.dedup();
    assert_eq!(endpoints.len(), 5_000);
    Ok(())
}
