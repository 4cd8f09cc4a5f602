//! The end of a user.

use anyhow::Result;
use chrono::TimeDelta;
use serde_json::{Value, json};
use testkit::{Client, Role, Token, World};

use crate::tokens::{GITHUB, id, store, token};

async fn erase(client: &Client, user: &str) -> Result<testkit::Answer> {
    client.post(&format!("/api/users/{user}/erase")).send().await
}

fn reported(subject: &str) -> Value {
    json!({"id": subject, "subject": subject, "data": {"endpoint": "/x", "ip_address": "192.0.2.1"}})
}

#[tokio::test]
async fn a_user_ends_itself_and_is_nobody_from_then_on() -> Result<()> {
    let world = World::start().await?;
    let alice = world.user("alice")?;
    store(&alice, &token("github", GITHUB)).await?.expect(201)?;
    world.call(&alice, "/api/analyze").await?.expect(204)?;
    let user = world.user_id("alice").await?;
    let before = world.summary("alice").await?;
    assert_eq!(before, (1, 1));

    let receipt = erase(&alice, "me").await?.expect(200)?;
    let receipt_body = receipt.json()?;
    assert_eq!(receipt_body["user_id"], user.to_string());
    assert_eq!(receipt_body["finished"], true);
    for path in ["/api/usage/stats", "/api/tokens", "/api/users/me/export"] {
        alice.get(path).send().await?.expect(401)?;
    }
    erase(&alice, "me").await?.expect(401)?;
    world.call(&alice, "/api/analyze").await?.expect(401)?;
    assert_eq!(world.text("SELECT count(*)::text FROM public.user_data_keys k JOIN public.users u USING (user_id) WHERE u.status = 'erased'").await?, "0");

    // By either name nobody comes back, and nothing is counted.
    let boss = world.client("boss", Role::Admin)?;
    for name in ["alice".to_owned(), user.to_string()] {
        let events = boss.post("/api/usage/events").json(&reported(&name)).send().await?.expect(422)?;
        assert_eq!(events.json()?["items"][0]["error"]["code"], "subject_erased", "{name}");
        let put = boss.put(&format!("/api/users/{name}")).json(&json!({"status": "active"})).send().await?;
        assert_eq!((put.status.as_u16(), put.code()), (409, "subject_erased".into()), "{name}");
        let plan = json!({"plan": "pro", "effective": "now"});
        boss.put(&format!("/api/users/{name}/plan")).json(&plan).send().await?.expect(409)?;
        let check = json!({"user_id": name, "endpoint": "/api/analyze", "record": true});
        boss.post("/api/usage/check").json(&check).send().await?.expect(409)?;
        let again = erase(&boss, &name).await?.expect(200)?.json()?;
        assert_eq!(again["receipt_id"], receipt_body["receipt_id"], "{name}");
        let export = boss.get(&format!("/api/users/{name}/export")).send().await?.expect(200)?.json()?;
        assert_eq!(export["user"]["status"], "erased");
        for section in ["calls", "tokens", "token_audit", "security_log", "months"] {
            assert_eq!(export[section], json!([]), "{section}");
        }
        let stats =
            boss.get(&format!("/api/usage/stats?user_id={name}")).send().await?.expect(200)?.json()?;
        assert_eq!(stats["analyze"]["used"], 1, "counts stay");
    }
    // Another account cannot take the name over.
    let rename = boss.put("/api/users/bob").json(&json!({"external_id": "alice"})).send().await?;
    assert_eq!((rename.status.as_u16(), rename.code()), (409, "subject_erased".into()));
    assert_eq!(
        world.text("SELECT string_agg(status, ' ' ORDER BY status) FROM public.users").await?,
        "active erased"
    );
    Ok(())
}

#[tokio::test]
async fn a_user_needs_a_fresh_credential_and_an_admin_does_not() -> Result<()> {
    let world = World::start().await?;
    let clock = &world.env.clock;
    let now = clock.now().timestamp();
    let with = |iat: Value| {
        let token = Token::new(clock, "alice", Role::User).claim("iat", iat);
        Ok::<_, anyhow::Error>(Client::new(&world.api.url)?.with_token(token.mint()))
    };
    world.user("alice")?.get("/api/usage/stats").send().await?.expect(200)?;
    for stale in [json!(now - 15 * 60 - 1), json!(now + 3_600), Value::Null, json!(0)] {
        let refused = erase(&with(stale.clone())?, "me").await?.expect(403)?;
        assert_eq!(refused.code(), "stale_credential", "{stale}");
    }
    erase(&with(json!("soon"))?, "me").await?.expect(401)?;
    let service = world.service()?;
    erase(&service, "alice").await?.expect(403)?;
    let bob = world.user("bob")?;
    erase(&bob, "alice").await?.expect(404)?;
    erase(&bob, "nobody").await?.expect(404)?;
    let boss = world.client("boss", Role::Admin)?;
    erase(&boss, "nobody").await?.expect(404)?;
    erase(&boss, "0198e9a6-58a5-7cc3-9f0b-0123456789ab").await?.expect(404)?;
    erase(&with(json!(now - 14 * 60))?, "me").await?.expect(200)?;
    clock.set(clock.now() + TimeDelta::minutes(1));
    erase(&boss, "bob").await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn while_nothing_is_projected_the_receipt_says_so() -> Result<()> {
    let mut world = World::start().await?;
    let alice = world.user("alice")?;
    let stored = id(&store(&alice, &token("github", GITHUB)).await?.expect(201)?)?;
    world.stop_worker().await?;
    let receipt = erase(&alice, "me").await?.expect(202)?.json()?;
    assert_eq!(receipt["finished"], false);
    alice.get(&format!("/api/tokens/{stored}")).send().await?.expect(401)?;
    world.start_worker();
    world.wait_until_projected().await?;
    let boss = world.client("boss", Role::Admin)?;
    let user = receipt["user_id"].as_str().unwrap_or_default().to_owned();
    let finished = erase(&boss, &user).await?.expect(200)?.json()?;
    assert_eq!((&finished["receipt_id"], &finished["finished"]), (&receipt["receipt_id"], &true.into()));
    Ok(())
}

/// Two that begin at once are two events; everybody hears of the one that the log has first.
#[tokio::test]
async fn of_two_erasures_at_once_there_is_one_receipt() -> Result<()> {
    let world = World::start().await?;
    let (one, other) = (world.client("one", Role::Admin)?, world.client("other", Role::Admin)?);
    let mut both = 0;
    for round in 0..20 {
        let user = format!("user-{round}");
        world.user(&user)?.get("/api/usage/stats").send().await?.expect(200)?;
        let id = world.user_id(&user).await?.to_string();
        let (first, second) = tokio::join!(erase(&one, &id), erase(&other, &id));
        let last = erase(&one, &id).await?.expect(200)?.json()?;
        for answer in [first?, second?] {
            // One that came a moment later finds the account gone and the tables not there yet.
            if answer.status == 503 {
                continue;
            }
            assert_eq!(answer.expect(200)?.json()?, last);
            both += 1;
        }
    }
    assert!(both > 20, "none of them were at once");
    Ok(())
}
