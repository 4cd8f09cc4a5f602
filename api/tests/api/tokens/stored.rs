//! Storing, listing, deleting, and the audit of it.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use testkit::{Role, World};

use super::{GITHUB, OPENAI, OTHER_GITHUB, actions, id, store, token};

#[tokio::test]
async fn a_token_is_stored_shown_masked_replaced_and_deleted() -> Result<()> {
    let world = World::start().await?;
    let alice = world.user("alice")?;
    let mut body = token("github", GITHUB);
    body["token_name"] = "work".into();
    let first = store(&alice, &body).await?.expect(201)?;
    let shown = first.json()?;
    assert!(first.header("ledger-seq").is_some());
    assert_eq!(shown["token_type"], "github");
    assert_eq!(shown["token_name"], "work");
    assert_eq!(shown["masked"], "ghp_…wxyz");
    assert_eq!(shown["last_used"], Value::Null);
    assert_eq!(shown["fingerprint"].as_str().map(str::len), Some(16));
    assert_eq!(shown.get("warnings"), None);
    assert!(!first.text().contains(GITHUB));

    let path = format!("/api/tokens/{}", id(&first)?);
    let read = alice.get(&path).send().await?.expect(200)?;
    assert_eq!(read.json()?, shown);
    assert!(!read.text().contains("encrypted"), "{}", read.text());

    // Another one of its type takes its place; one of another type does not.
    let second = store(&alice, &token("github", OTHER_GITHUB)).await?.expect(200)?;
    assert_ne!(id(&second)?, id(&first)?);
    assert_ne!(second.json()?["fingerprint"], shown["fingerprint"]);
    alice.get(&path).send().await?.expect(404)?;
    store(&alice, &token("openai", OPENAI)).await?.expect(201)?;
    let list = alice.get("/api/tokens").send().await?.expect(200)?.json()?;
    let types: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|item| item["token_type"].clone()).collect();
    assert_eq!(types, ["openai", "github"]);
    assert_eq!(list["next_cursor"], Value::Null);
    let page = alice.get("/api/tokens?limit=1").send().await?.expect(200)?.json()?;
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = alice.get(&format!("/api/tokens?cursor={cursor}")).send().await?.expect(200)?.json()?;
    assert_eq!(
        (rest["items"].as_array().map(Vec::len), &rest["items"][0]["token_type"]),
        (Some(1), &"github".into())
    );
    alice.get("/api/tokens?limit=501").send().await?.expect(422)?;

    let path = format!("/api/tokens/{}", id(&second)?);
    let deleted = alice.request("DELETE".parse()?, &path).send().await?.expect(204)?;
    assert!(deleted.text().is_empty());
    alice.get(&path).send().await?.expect(404)?;
    alice.request("DELETE".parse()?, &path).send().await?.expect(404)?;
    assert_eq!(actions(&alice, "/api/tokens/audit").await?, ["deleted", "stored", "stored", "stored"]);
    assert_eq!(actions(&alice, &format!("{path}/audit")).await?, ["deleted", "stored"]);
    let of_first = actions(&alice, &format!("/api/tokens/{}/audit", id(&first)?)).await?;
    assert_eq!(of_first, ["stored", "stored"], "its own, and the one that took its place");
    Ok(())
}

#[tokio::test]
async fn an_unknown_format_is_taken_with_a_warning() -> Result<()> {
    let world = World::start().await?;
    let alice = world.user("alice")?;
    let stored = store(&alice, &token("gemini", "a-new-format-of-2027")).await?.expect(201)?.json()?;
    assert_eq!(stored["warnings"][0]["code"], "unknown_format");
    assert_eq!(stored["masked"], "…2027");
    let refused = store(&alice, &token("openai", "sk-ant-api03-0123456789abcdef")).await?.expect(422)?;
    let refused = refused.json()?;
    assert_eq!(refused["errors"][0]["code"], "other_type");
    assert!(refused["detail"].as_str().unwrap().contains("anthropic"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn the_audit_tells_who_when_and_from_where() -> Result<()> {
    let world = World::start().await?;
    let alice = world.user("alice")?;
    let request = alice.post("/api/tokens").header("user-agent", "cli/1.0").json(&token("github", GITHUB));
    let stored = request.send().await?.expect(201)?;
    let boss = world.client("boss", Role::Admin)?;
    let path = format!("/api/tokens/{}?user_id=alice", id(&stored)?);
    boss.get(&path).send().await?.expect(200)?;
    let request = boss.request("DELETE".parse()?, &path).header("user-agent", "admin/1.0");
    request.send().await?.expect(204)?;
    let audit = alice.get("/api/tokens/audit?limit=1").send().await?.expect(200)?.json()?;
    let deleted = &audit["items"][0];
    assert_eq!(deleted["actor"]["kind"], "admin");
    assert_eq!(deleted["actor"]["id"], world.user_id("boss").await?.to_string());
    assert_eq!(
        (&deleted["ip_address"], &deleted["user_agent"]),
        (&Value::Null, &Value::Null),
        "the admin's address is not the user's to read"
    );
    let cursor = audit["next_cursor"].as_str().unwrap();
    let audit = alice.get(&format!("/api/tokens/audit?cursor={cursor}")).send().await?.expect(200)?.json()?;
    let stored_entry = &audit["items"][0];
    assert_eq!(stored_entry["action"], "stored");
    assert_eq!(stored_entry["token_id"], id(&stored)?);
    assert_eq!(
        stored_entry["actor"],
        json!({"kind": "user", "id": world.user_id("alice").await?.to_string()})
    );
    assert_eq!(stored_entry["user_agent"], "cli/1.0");
    assert_eq!(stored_entry["ip_address"], "127.0.0.1");
    assert_eq!(audit["next_cursor"], Value::Null);
    Ok(())
}

#[tokio::test]
async fn of_two_stores_at_once_one_stays_and_the_audit_shows_both() -> Result<()> {
    let world = World::start().await?;
    let alice = world.user("alice")?;
    let (one, other) = (token("github", GITHUB), token("github", OTHER_GITHUB));
    let (one, other) = tokio::join!(store(&alice, &one), store(&alice, &other));
    let (one, other) = (one?, other?);
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201], "one of them took the other's place");
    let list = alice.get("/api/tokens").send().await?.expect(200)?.json()?;
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 1);
    let winner = if one.status == 200 { id(&one)? } else { id(&other)? };
    assert_eq!(items[0]["id"], winner);
    assert_eq!(actions(&alice, "/api/tokens/audit").await?, ["stored", "stored"]);
    Ok(())
}

#[tokio::test]
async fn a_retried_request_stores_once_and_its_key_says_nothing_of_the_token() -> Result<()> {
    let world = World::start().await?;
    let alice = world.user("alice")?;
    let send = |body: Value| {
        let request = alice.post("/api/tokens").header("idempotency-key", "once").json(&body);
        async move { request.send().await }
    };
    let first = send(token("github", GITHUB)).await?.expect(201)?;
    let again = send(token("github", GITHUB)).await?.expect(201)?;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.json()?, first.json()?);
    let other = send(token("github", OTHER_GITHUB)).await?.expect(422)?;
    assert_eq!(other.code(), "idempotency_key_reused");
    assert_eq!(actions(&alice, "/api/tokens/audit").await?, ["stored"]);
    // Whoever reads the table and guesses the token cannot tell by its hash: what is hashed is the keyed fingerprint.
    let hash_of = |body: &str| {
        let parts = ["", "content-type", "application/json", body];
        let hash = parts.iter().fold(Sha256::new(), |hash, part| {
            hash.chain_update((part.len() as u64).to_be_bytes()).chain_update(part)
        });
        hash.finalize().to_vec()
    };
    let kept: Vec<u8> = sqlx::query_scalar("SELECT body_hash FROM public.idempotency_keys")
        .fetch_one(world.env.pool())
        .await?;
    let fingerprint = first.json()?["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(kept, hash_of(&format!("github\0{fingerprint}\0")));
    assert_ne!(kept, hash_of(&token("github", GITHUB).to_string()));
    Ok(())
}

#[tokio::test]
async fn what_was_not_projected_yet_is_not_what_a_retry_hears() -> Result<()> {
    let mut world = World::start().await?;
    let alice = world.user("alice")?;
    let send = || {
        let request = alice.post("/api/tokens").header("idempotency-key", "once");
        async move { request.json(&token("github", GITHUB)).send().await }
    };
    world.stop_worker().await?;
    let stored = id(&send().await?.expect(202)?)?;
    assert_eq!(send().await?.expect(202)?.header("idempotency-replayed"), None);
    world.start_worker();
    world.wait_until_projected().await?;
    let created = send().await?.expect(201)?;
    assert_eq!((id(&created)?, created.header("idempotency-replayed")), (stored.clone(), None));
    let again = send().await?.expect(201)?;
    assert_eq!((again.header("idempotency-replayed"), again.json()?), (Some("true"), created.json()?));
    assert_eq!(actions(&alice, "/api/tokens/audit").await?, ["stored"]);
    Ok(())
}

#[tokio::test]
async fn another_s_token_is_not_there() -> Result<()> {
    let world = World::start().await?;
    let (alice, bob) = (world.user("alice")?, world.user("bob")?);
    let stored = id(&store(&alice, &token("github", GITHUB)).await?.expect(201)?)?;
    store(&bob, &token("github", GITHUB)).await?.expect(201)?;
    let of_nobody = "0198e9a6-58a5-7cc3-9f0b-0123456789ab";
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/audit")] {
        let mut bodies = Vec::new();
        for id in [stored.as_str(), of_nobody] {
            let answer =
                bob.request(method.parse()?, &format!("/api/tokens/{id}{path}")).send().await?.expect(404)?;
            let mut body = answer.json()?;
            (body["instance"], body["request_id"]) = (Value::Null, Value::Null);
            bodies.push(body);
        }
        assert_eq!(bodies[0], bodies[1], "{method} {path}: whether it exists must not show");
    }
    alice.get(&format!("/api/tokens/{stored}")).send().await?.expect(200)?;
    let prints = "SELECT count(DISTINCT fingerprint)::text FROM user_tokens";
    assert_eq!(world.text(prints).await?, "2", "the same token of two users does not look the same");
    Ok(())
}

#[tokio::test]
async fn nothing_sealed_is_ever_the_same_twice() -> Result<()> {
    let world = World::start().await?;
    let mut seen = std::collections::HashSet::new();
    for user in ["alice", "bob", "carol", "dave"] {
        let client = world.user(user)?;
        for _ in 0..5 {
            let stored = id(&store(&client, &token("github", GITHUB)).await?)?;
            let row = format!("SELECT encrypted_token::text FROM user_tokens WHERE id = '{stored}'");
            let sealed: Value = serde_json::from_str(&world.text(&row).await?)?;
            for part in ["iv", "encrypted", "tag"] {
                assert!(seen.insert(sealed[part].to_string()), "{part} again");
            }
        }
    }
    Ok(())
}

/// A store and a deletion stay in the log for ever: nobody fills it with them.
#[tokio::test]
async fn the_eleventh_change_of_a_minute_waits() -> Result<()> {
    let world = World::start().await?;
    let alice = world.user("alice")?;
    for _ in 0..4 {
        let stored = id(&store(&alice, &token("github", GITHUB)).await?.expect(201)?)?;
        alice.request("DELETE".parse()?, &format!("/api/tokens/{stored}")).send().await?.expect(204)?;
    }
    // What is refused changes nothing, and what is not there cannot be deleted.
    store(&alice, &token("github", "")).await?.expect(422)?;
    let nothing = "/api/tokens/0198e9a6-58a5-7cc3-9f0b-0123456789ab";
    alice.request("DELETE".parse()?, nothing).send().await?.expect(404)?;
    store(&alice, &token("github", GITHUB)).await?.expect(201)?;
    let stored = id(&store(&alice, &token("github", GITHUB)).await?.expect(200)?)?;
    let refused = store(&alice, &token("github", GITHUB)).await?.expect(429)?;
    assert_eq!(refused.code(), "rate_limited");
    assert!(refused.header("retry-after").is_some());
    alice.request("DELETE".parse()?, &format!("/api/tokens/{stored}")).send().await?.expect(429)?;
    assert_eq!(world.text("SELECT count(*)::text FROM token_audit").await?, "10");
    store(&world.user("bob")?, &token("github", GITHUB)).await?.expect(201)?;
    Ok(())
}

#[tokio::test]
async fn the_audit_is_read_as_often_as_other_lists() -> Result<()> {
    let world = World::start().await?;
    for (user, of_token) in [("alice", false), ("bob", true)] {
        let client = world.user(user)?;
        let stored = id(&store(&client, &token("github", GITHUB)).await?.expect(201)?)?;
        let path =
            if of_token { format!("/api/tokens/{stored}/audit") } else { "/api/tokens/audit".to_owned() };
        let asked = (0..40).map(|_| client.get(&path).send());
        let answers = futures_util::future::try_join_all(asked).await?;
        let refused = answers.iter().filter(|answer| answer.status == 429).count();
        assert!(refused > 0 && refused < 40, "{refused} of 40 on {path}");
    }
    Ok(())
}
