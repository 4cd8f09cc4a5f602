//! A key's budget holds as a plan's limit does: never one unit over it, and all or none.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use testkit::{Answer, Client, Role, World};

use super::{Key, key, path};
use crate::answers::assert_problem;

/// How often each status was answered to so many calls made at once.
async fn at_once(world: &World, clients: &[&Client], calls: usize) -> Result<BTreeMap<u16, usize>> {
    let calls = (0..calls).map(|call| world.call(clients[call % clients.len()], "/api/items"));
    let mut statuses = BTreeMap::new();
    for answer in try_join_all(calls).await? {
        *statuses.entry(answer.status.as_u16()).or_default() += 1;
    }
    Ok(statuses)
}

/// A user on the plan pro, 500 units a month, with a key of this budget.
async fn on_pro(world: &World, budget: Value) -> Result<Key> {
    let made = key(world, "ada", &["check"], json!({"budget": budget})).await?;
    let plan = json!({"plan": "pro", "effective": "now"});
    world.service()?.put("/api/users/ada/plan").json(&plan).send().await?;
    Ok(made)
}

async fn set_budget(world: &World, made: &Key, budget: Value) -> Result<Answer> {
    let boss = world.client("boss", Role::Admin)?;
    boss.patch(&path("ada", made)).json(&json!({"budget": budget})).send().await?.expect(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_hundred_at_once_exactly_the_budget_is_admitted() -> Result<()> {
    let world = World::start().await?;
    let made = on_pro(&world, json!(50)).await?;
    let statuses = at_once(&world, &[&made.client], 200).await?;
    assert_eq!(statuses, BTreeMap::from([(204, 50), (429, 150)]));
    assert_eq!(world.summary("ada").await?, (50, 0));
    // The plan has more, for whoever comes without it.
    world.call(&world.user("ada")?, "/api/items").await?.expect(204)?;
    let other = key(&world, "ada", &["check"], json!({"budget": 3})).await?;
    let statuses = at_once(&world, &[&other.client, &made.client], 20).await?;
    assert_eq!(statuses, BTreeMap::from([(204, 3), (429, 17)]));
    assert_eq!(world.differences().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_plan_s_limit_holds_below_the_budget() -> Result<()> {
    let world = World::start().await?;
    let made = key(&world, "ada", &["check"], json!({"budget": 500})).await?;
    let other = key(&world, "ada", &["check"], json!({"budget": 20})).await?;
    let statuses = at_once(&world, &[&made.client, &other.client], 200).await?;
    assert_eq!(statuses, BTreeMap::from([(204, 50), (429, 150)]));
    assert_eq!(world.summary("ada").await?, (50, 0));
    let refused = world.call(&made.client, "/api/items").await?.expect(429)?.json()?;
    assert_eq!((&refused["meter"], &refused["violated-policies"]), (&json!("total"), &json!(["total"])));
    Ok(())
}

#[tokio::test]
async fn a_refusal_names_the_key_s_budget() -> Result<()> {
    let world = World::start().await?;
    let made = on_pro(&world, json!(2)).await?;
    let first = world.call(&made.client, "/api/items").await?.expect(204)?;
    let policies = first.header("ratelimit-policy").context("policies")?;
    assert!(policies.contains("\"total\";q=500;w=") && policies.contains("\"key\";q=2;w="), "{policies}");
    assert!(first.header("ratelimit").context("a limit")?.starts_with("\"key\";r=1;t="));
    assert_eq!(first.header("x-usage-limit"), Some("2"));
    let check = |units: u64| {
        let body = json!({"endpoint": "/api/items", "units": units});
        made.client.post("/api/usage/check").json(&body).send()
    };
    let allowed = check(1).await?.expect(200)?.json()?;
    assert_eq!((&allowed["allowed"], &allowed["meter"]), (&json!(true), &json!("key")));
    assert_eq!(allowed["meters"]["key"]["used"], 1);
    // All units or none.
    assert_eq!(check(2).await?.expect(200)?.json()?["allowed"], false);
    world.call(&made.client, "/api/items").await?.expect(204)?;
    let answer = world.call(&made.client, "/api/items").await?;
    let problem = assert_problem(&answer, 429, "quota_exceeded");
    assert_eq!(problem["violated-policies"], json!(["key"]));
    assert_eq!(
        (&problem["meter"], &problem["limit"], &problem["used"]),
        (&json!("key"), &json!(2), &json!(2))
    );
    assert_eq!((&problem["key_id"], &problem["upgrade"]), (&json!(made.id), &Value::Null));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.header("x-usage-warning"), Some("key;used=2;limit=2"));
    let pool = world.env.pool().clone();
    world.api.stop().await?;
    let told = || async {
        let told: Option<i64> =
            sqlx::query_scalar("SELECT sum(count)::bigint FROM limit_rejections WHERE key_id IS NOT NULL")
                .fetch_one(&pool)
                .await
                .expect("a row");
        told == Some(1)
    };
    testkit::wait_until(testkit::PATIENCE, told).await;
    Ok(())
}

#[tokio::test]
async fn a_changed_budget_holds_on_the_next_call() -> Result<()> {
    let world = World::start().await?;
    let made = on_pro(&world, Value::Null).await?;
    for _ in 0..4 {
        world.call(&made.client, "/api/items").await?.expect(204)?;
    }
    // What it used before it had a budget counts.
    set_budget(&world, &made, json!(5)).await?;
    world.call(&made.client, "/api/items").await?.expect(204)?;
    world.call(&made.client, "/api/items").await?.expect(429)?;
    set_budget(&world, &made, json!(6)).await?;
    world.call(&made.client, "/api/items").await?.expect(204)?;
    world.call(&made.client, "/api/items").await?.expect(429)?;
    set_budget(&world, &made, json!(0)).await?;
    let none = world.call(&made.client, "/api/items").await?.expect(429)?.json()?;
    assert_eq!(none["limit"], 0);
    set_budget(&world, &made, Value::Null).await?;
    world.call(&made.client, "/api/items").await?.expect(204)?;
    Ok(())
}

#[tokio::test]
async fn a_budget_is_given_back_by_a_reset_and_by_a_server_s_error() -> Result<()> {
    let world = World::start().await?;
    let made = on_pro(&world, json!(3)).await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let answer = world.call(&made.client, "/api/items").await?.expect(204)?;
        ids.push(answer.header("x-usage-call-id").context("a call id")?.to_owned());
    }
    world.call(&made.client, "/api/items").await?.expect(429)?;
    let path = format!("/api/usage/calls/{}/outcome", ids[0]);
    let outcome = world.service()?.post(&path).json(&json!({"status_code": 502})).send().await?;
    outcome.expect(202)?;
    world.wait_until_projected().await?;
    world.call(&made.client, "/api/items").await?.expect(204)?;
    world.call(&made.client, "/api/items").await?.expect(429)?;
    let reset = world.user("ada")?.post("/api/usage/reset").json(&json!({"reason": "test"})).send().await?;
    reset.expect(200)?;
    for _ in 0..3 {
        world.call(&made.client, "/api/items").await?.expect(204)?;
    }
    world.call(&made.client, "/api/items").await?.expect(429)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_budget_holds_over_restarts_and_an_exchange_of_the_secret() -> Result<()> {
    let world = World::start().await?;
    let made = on_pro(&world, json!(10)).await?;
    let statuses = at_once(&world, &[&made.client], 6).await?;
    assert_eq!(statuses, BTreeMap::from([(204, 6)]));
    let mut world = world.restart_api(&[]).await?;
    world.wait_until_open().await;
    let boss = world.client("boss", Role::Admin)?;
    let rotate = format!("/api/keys/{}/rotate?user_id=ada", made.id);
    let rotated = boss.post(&rotate).json(&json!({"overlap_seconds": 600})).send().await?.expect(200)?;
    let secret = rotated.json()?["secret"].as_str().context("a secret")?.to_owned();
    let old = world.anonymous()?.with_token(&made.secret);
    let new = world.anonymous()?.with_token(secret);
    world.wait_until_projected().await?;
    world.call(&old, "/api/items").await?.expect(204)?;
    // Not projected: what is held here counts beside what is read.
    world.stop_worker().await?;
    let statuses = at_once(&world, &[&old, &new], 40).await?;
    assert_eq!(statuses, BTreeMap::from([(204, 3), (429, 37)]));
    world.start_worker();
    assert_eq!(world.summary("ada").await?, (10, 0));
    assert_eq!(world.differences().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn in_shadow_mode_a_budget_is_told_of_and_passed() -> Result<()> {
    let world = World::with(&[("ENFORCEMENT", "shadow")]).await?;
    let made = on_pro(&world, json!(1)).await?;
    assert_eq!(world.call(&made.client, "/x").await?.expect(204)?.header("x-usage-would-block"), None);
    assert_eq!(world.call(&made.client, "/x").await?.expect(204)?.header("x-usage-would-block"), Some("key"));
    Ok(())
}
