//! What was done to an account: who reads it, in which order, and what of admins is in it.

use anyhow::{Context, Result};
use api::accounts::{AccountLog, By};
use api::metering::sealer::Sealer;
use events::{AccountAction, Actor, ActorKind, Personal};
use ledger::UserId;
use serde_json::{Value, json};
use testkit::{Client, Role, World};
use uuid::Uuid;

use super::key;
use crate::answers::assert_problem;
use crate::tokens::{GITHUB, store, token};

const LOG: &str = "/api/users/me/security-log";
const SESSION: Uuid = Uuid::from_u128(77);

/// What an entry says, in a line.
fn line(entry: &Value) -> String {
    let mut words = vec![entry["action"].as_str().unwrap_or_default()];
    words.extend(entry["method"].as_str());
    words.extend(entry["actor"]["kind"].as_str());
    words.extend(entry["ip_address"].as_str());
    words.join(" ")
}

async fn items(client: &Client, path: &str) -> Result<Vec<Value>> {
    let page = client.get(path).send().await?.expect(200)?.json()?;
    Ok(page["items"].as_array().context("items")?.clone())
}

async fn lines(client: &Client, path: &str) -> Result<Vec<String>> {
    Ok(items(client, path).await?.iter().map(line).collect())
}

fn from_afar(user: UserId) -> By {
    let actor = Actor::new(ActorKind::User, user.to_string());
    By { actor, personal: Some(Personal::of_client("192.0.2.7".parse().ok(), Some("curl/8".into()))) }
}

fn account_log(world: &World) -> AccountLog {
    let sealer = Sealer::new(world.api.handle.keys.clone(), world.env.pool().clone());
    AccountLog::new(world.api.handle.writer.clone(), Some(sealer))
}

async fn user_id(world: &World, name: &str) -> Result<UserId> {
    world.service()?.put(&format!("/api/users/{name}")).json(&json!({})).send().await?;
    world.user_id(name).await
}

#[tokio::test]
async fn what_happened_to_an_account_is_read_by_its_user_the_newest_first() -> Result<()> {
    let world = World::start().await?;
    let user = user_id(&world, "ada").await?;
    let log = account_log(&world);
    let by = from_afar(user);
    log.record(user, AccountAction::Registered, Some("invitation"), None, &by).await?;
    log.record(user, AccountAction::SignedIn, Some("password"), Some(SESSION), &by).await?;
    let actor = Actor::new(ActorKind::Operator, "usage-ledger user");
    let operator = By { actor, personal: None };
    let event = (world.env.ids.event_id(), world.env.clock.now());
    for _ in 0..2 {
        // Told twice, it happened once.
        log.record_at(event, user, AccountAction::StatusChanged, Some("suspended"), None, &operator).await?;
    }
    // As at the command line, where nothing is sealed.
    let bare = AccountLog::new(world.api.handle.writer.clone(), None);
    let seq = bare.record(user, AccountAction::SignedOut, None, None, &by).await?;
    assert!(seq > 0);
    world.wait_until_projected().await?;

    let ada = world.user("ada")?;
    let found = items(&ada, LOG).await?;
    assert_eq!(
        found.iter().map(line).collect::<Vec<_>>(),
        [
            "signed_out user",
            "status_changed suspended operator",
            "signed_in password user 192.0.2.7",
            "user_registered invitation user 192.0.2.7"
        ]
    );
    assert_eq!((&found[2]["object_id"], &found[2]["user_agent"]), (&json!(SESSION), &json!("curl/8")));
    assert_eq!(
        (&found[1]["object_id"], &found[1]["actor"]["id"]),
        (&Value::Null, &json!("usage-ledger user"))
    );
    assert!(found.iter().all(|entry| entry["user_id"] == user.to_string()));
    // The audit of tokens has no sign-ins, and the export has them.
    assert_eq!(items(&ada, "/api/tokens/audit").await?, [Value::Null; 0]);
    let export = ada.get("/api/users/me/export").send().await?.expect(200)?.json()?;
    assert_eq!(export["security_log"][1]["action"], "signed_in");
    assert_eq!(export["security_log"][1]["ip_address"], "192.0.2.7");
    Ok(())
}

#[tokio::test]
async fn pages_follow_each_other_and_a_cursor_is_its_list_s_alone() -> Result<()> {
    let world = World::start().await?;
    let user = user_id(&world, "ada").await?;
    user_id(&world, "eve").await?;
    let log = account_log(&world);
    let methods = ["m1", "m2", "m3", "m4", "m5"];
    for method in methods {
        log.record(user, AccountAction::SignedIn, Some(method), None, &from_afar(user)).await?;
    }
    world.wait_until_projected().await?;
    let ada = world.user("ada")?;
    let (mut path, mut found, mut pages) = (format!("{LOG}?limit=2"), Vec::new(), 0);
    loop {
        let page = ada.get(&path).send().await?.expect(200)?.json()?;
        let items = page["items"].as_array().context("items")?;
        found.extend(items.iter().filter_map(|item| item["method"].as_str()).map(str::to_owned));
        pages += 1;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("{LOG}?limit=2&cursor={cursor}");
    }
    found.reverse();
    assert_eq!((found.as_slice(), pages), (methods.map(str::to_owned).as_slice(), 3));

    let query = path.split_once('?').context("a query")?.1;
    let eve = world.user("eve")?;
    let of_another = eve.get(&format!("{LOG}?{query}")).send().await?;
    assert_problem(&of_another, 400, "malformed_cursor");
    let other_list = ada.get(&format!("/api/tokens/audit?{query}")).send().await?;
    assert_problem(&other_list, 400, "malformed_cursor");
    assert_problem(&eve.get(&format!("{LOG}?user_id=ada")).send().await?, 404, "not_found");
    assert_problem(&eve.get(&format!("{LOG}?user_id={user}")).send().await?, 404, "not_found");
    assert_problem(&world.service()?.get(&format!("{LOG}?user_id=ada")).send().await?, 403, "forbidden");
    let with_key = key(&world, "ada", &["read", "tokens"], json!({})).await?.client;
    assert_problem(&with_key.get(LOG).send().await?, 403, "forbidden");
    world.anonymous()?.get(LOG).send().await?.expect(401)?;
    let boss = world.client("boss", Role::Admin)?;
    assert_eq!(lines(&boss, &format!("{LOG}?user_id=ada&limit=3")).await?.len(), 3);
    Ok(())
}

#[tokio::test]
async fn acts_on_keys_tokens_plans_and_usage_are_in_it_and_an_admin_s_own_are_the_admin_s_too() -> Result<()>
{
    let world = World::start().await?;
    let (ada, boss) = (world.user("ada")?, world.client("boss", Role::Admin)?);
    let user = user_id(&world, "ada").await?;
    store(&ada, &token("github", GITHUB)).await?.expect(201)?;
    let made = key(&world, "ada", &["read"], json!({})).await?;
    boss.delete(&super::path("ada", &made)).send().await?.expect(204)?;
    let plan = json!({"plan": "pro", "effective": "now"});
    world.service()?.put("/api/users/ada/plan").json(&plan).send().await?.expect(200)?;
    let reset = json!({"user_id": "ada", "reason": "goodwill"});
    boss.post("/api/usage/reset").json(&reset).send().await?.expect(200)?;
    // The admin's own, of which others have nothing.
    let own = boss.post("/api/keys").json(&json!({"name": "own"})).send().await?.expect(201)?.json()?;
    world.wait_until_projected().await?;

    let of_user = items(&ada, LOG).await?;
    let month = ledger::Month::of(world.env.clock.now());
    assert_eq!(
        of_user.iter().map(line).collect::<Vec<_>>(),
        [
            format!("usage_reset {month} admin"),
            "plan_changed pro service".to_owned(),
            "api_key_revoked admin".to_owned(),
            "api_key_created admin".to_owned(),
            "token_stored github user 127.0.0.1".to_owned(),
        ]
    );
    assert_eq!(of_user[2]["object_id"], made.id);
    let of_admin = items(&boss, LOG).await?;
    let acts: Vec<_> = of_admin.iter().map(|entry| (line(entry), entry["user_id"].clone())).collect();
    let boss_id = world.user_id("boss").await?.to_string();
    assert_eq!(
        acts,
        [
            ("api_key_created admin 127.0.0.1".to_owned(), json!(boss_id)),
            (format!("usage_reset {month} admin"), json!(user)),
            ("api_key_revoked admin".to_owned(), json!(user)),
            ("api_key_created admin".to_owned(), json!(user)),
        ]
    );
    assert_eq!(of_admin[0]["object_id"], own["id"]);
    // By pages, over both halves.
    let first = boss.get(&format!("{LOG}?limit=1")).send().await?.expect(200)?.json()?;
    let cursor = first["next_cursor"].as_str().context("another page")?;
    let others = items(&boss, &format!("{LOG}?limit=3&cursor={cursor}")).await?;
    assert_eq!(others, of_admin[1..]);
    Ok(())
}

#[tokio::test]
async fn an_erased_user_s_acts_stay_without_the_person() -> Result<()> {
    let world = World::start().await?;
    let user = user_id(&world, "ada").await?;
    let log = account_log(&world);
    log.record(user, AccountAction::SignedIn, Some("link"), None, &from_afar(user)).await?;
    let boss = world.client("boss", Role::Admin)?;
    boss.post("/api/users/ada/erase").send().await?.expect(200)?;
    let personal =
        "SELECT count(*)::text FROM security_log WHERE ip_address IS NOT NULL OR user_agent IS NOT NULL";
    assert_eq!(world.text(personal).await?, "0");
    let path = format!("{LOG}?user_id={user}");
    assert_eq!(lines(&boss, &path).await?, ["user_erased admin", "signed_in link user"]);
    assert_eq!(lines(&boss, LOG).await?, ["user_erased admin"]);
    assert!(log.record(user, AccountAction::SignedIn, None, None, &from_afar(user)).await.is_err(), "nobody");
    Ok(())
}
