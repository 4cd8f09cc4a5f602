//! Asking whether a token works: the use is on disk first, and what does not open is refused alike.

use anyhow::Result;
use serde_json::Value;
use testkit::{Client, PATIENCE, Role, wait_until};

use super::{GITHUB, OPENAI, OTHER_GITHUB, Provider, actions, id, store, token, world_with};

async fn test(client: &Client, id: &str) -> Result<testkit::Answer> {
    client.post(&format!("/api/tokens/{id}/test")).send().await
}

#[tokio::test]
async fn a_stored_token_is_opened_for_its_provider_alone() -> Result<()> {
    let provider = Provider::answering(200).await?;
    let world = world_with(&provider).await?;
    let alice = world.user("alice")?;
    let stored = id(&store(&alice, &token("github", GITHUB)).await?.expect(201)?)?;
    let tested = test(&alice, &stored).await?.expect(200)?;
    assert_eq!(tested.json()?["result"], "valid");
    assert!(tested.header("ledger-seq").is_some());
    assert!(!tested.text().contains("upstream"), "{}", tested.text());
    assert_eq!(*provider.seen.lock(), [format!("Bearer {GITHUB}")]);
    world.wait_until_projected().await?;
    assert_eq!(actions(&alice, "/api/tokens/audit").await?, ["used", "stored"]);
    let used = alice.get(&format!("/api/tokens/{stored}")).send().await?.expect(200)?.json()?;
    assert_ne!(used["last_used"], Value::Null);
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_only_asked_about_leaves_nothing() -> Result<()> {
    let provider = Provider::answering(401).await?;
    let world = world_with(&provider).await?;
    let alice = world.user("alice")?;
    let tested = alice.post("/api/tokens/test").json(&token("openai", OPENAI)).send().await?.expect(200)?;
    assert_eq!(tested.json()?["result"], "invalid");
    assert_eq!(*provider.seen.lock(), [format!("Bearer {OPENAI}")]);
    world.wait_until_projected().await?;
    assert!(actions(&alice, "/api/tokens/audit").await?.is_empty());
    alice.post("/api/tokens/test").json(&token("openai", "")).send().await?.expect(422)?;
    Ok(())
}

#[tokio::test]
async fn the_eleventh_test_of_a_minute_waits() -> Result<()> {
    let provider = Provider::answering(200).await?;
    let world = world_with(&provider).await?;
    let (alice, bob) = (world.user("alice")?, world.user("bob")?);
    let stored = id(&store(&alice, &token("github", GITHUB)).await?.expect(201)?)?;
    let body = token("github", GITHUB);
    for round in 0..10 {
        let answer = match round % 2 {
            0 => test(&alice, &stored).await?,
            _ => alice.post("/api/tokens/test").json(&body).send().await?,
        };
        answer.expect(200)?;
    }
    let refused = test(&alice, &stored).await?.expect(429)?;
    assert_eq!(refused.code(), "rate_limited");
    assert_eq!(refused.header("retry-after"), Some("6"));
    assert_eq!(provider.seen.lock().len(), 10);
    bob.post("/api/tokens/test").json(&body).send().await?.expect(200)?;
    Ok(())
}

/// Flipped, cut, moved to another row, type or user: one status, one body.
#[tokio::test]
async fn whatever_was_done_to_a_row_the_answer_is_the_same() -> Result<()> {
    let provider = Provider::answering(200).await?;
    let world = world_with(&provider).await?;
    let alice = world.user("alice")?;
    let tamper = [
        "UPDATE user_tokens SET encrypted_token = jsonb_set(encrypted_token::jsonb, '{iv}', to_jsonb(repeat('0', 32)))::json",
        "UPDATE user_tokens SET encrypted_token = jsonb_set(encrypted_token::jsonb, '{tag}', to_jsonb(repeat('0', 128)))::json",
        "UPDATE user_tokens SET encrypted_token = jsonb_set(encrypted_token::jsonb, '{encrypted}', to_jsonb(repeat('0', 96)))::json",
        "UPDATE user_tokens SET encrypted_token = (encrypted_token::jsonb - 'tag')::json",
        "UPDATE user_tokens SET encrypted_token = (encrypted_token::jsonb - 'v')::json",
        "UPDATE user_tokens SET encrypted_token = (encrypted_token::jsonb - 'dek')::json",
        "UPDATE user_tokens SET encrypted_token = jsonb_set(encrypted_token::jsonb, '{v}', '1')::json",
        "UPDATE user_tokens SET encrypted_token = jsonb_set(encrypted_token::jsonb, '{dek}', '\"d2\"')::json",
        "UPDATE user_tokens SET encrypted_token = '{\"encrypted\": \"00\", \"iv\": \"00\"}'",
        "UPDATE user_tokens SET encrypted_token = '[]'",
        "UPDATE user_tokens SET token_type = 'openai'",
        "UPDATE user_tokens SET token_type = 'elsewhere'",
        "UPDATE user_tokens t SET encrypted_token = o.encrypted_token FROM user_tokens o WHERE o.user_id <> t.user_id",
    ];
    store(&world.user("bob")?, &token("github", OTHER_GITHUB)).await?.expect(201)?;
    let mut bodies = std::collections::BTreeSet::new();
    for (round, statement) in tamper.iter().enumerate() {
        // Ten tests a minute are a user's.
        let user = world.user(&format!("alice-{round}"))?;
        let stored = id(&store(&user, &token("github", GITHUB)).await?.expect(201)?)?;
        let own = world.user_id(&format!("alice-{round}")).await?;
        let of_user = if statement.contains(" FROM user_tokens o") {
            format!("{statement} AND t.user_id = '{own}'")
        } else {
            format!("{statement} WHERE user_id = '{own}'")
        };
        world.tamper(&of_user).await?;
        let mut body = test(&user, &stored).await?.expect(409)?.json()?;
        (body["instance"], body["request_id"]) = (Value::Null, Value::Null);
        bodies.insert(body.to_string());
    }
    // And its id: a row that was given another one.
    let stored = id(&store(&alice, &token("github", GITHUB)).await?.expect(201)?)?;
    let moved = "0198e9a6-58a5-7cc3-9f0b-0123456789ab";
    world.tamper(&format!("UPDATE user_tokens SET id = '{moved}' WHERE id = '{stored}'")).await?;
    let mut body = test(&alice, moved).await?.expect(409)?.json()?;
    (body["instance"], body["request_id"]) = (Value::Null, Value::Null);
    bodies.insert(body.to_string());
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert!(bodies.iter().all(|body| body.contains("token_unreadable")));
    assert!(provider.seen.lock().is_empty(), "nothing was sent to the provider");
    Ok(())
}

/// What was deleted before the use is on disk is not used: neither opened, nor sent to anybody.
#[tokio::test]
async fn a_token_that_is_deleted_meanwhile_is_not_used() -> Result<()> {
    let provider = Provider::answering(200).await?;
    let world = world_with(&provider).await?;
    let stored = id(&store(&world.user("alice")?, &token("github", GITHUB)).await?.expect(201)?)?;
    // A new process has no data key at hand. What reads one waits for the test.
    let world = world.restart_api(&[("GITHUB_API_URL", &provider.url)]).await?;
    world.wait_until_open().await;
    let alice = world.user("alice")?;
    let mut held = world.env.pool().begin().await?;
    sqlx::query("LOCK TABLE public.user_data_keys IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await?;
    let (client, path) = (alice.clone(), stored.clone());
    let testing = tokio::spawn(async move { test(&client, &path).await });
    let waiting = "SELECT count(*)::text FROM pg_locks
                   WHERE NOT granted AND relation = 'public.user_data_keys'::regclass";
    wait_until(PATIENCE, || async { world.text(waiting).await.is_ok_and(|waiting| waiting == "1") }).await;
    world.tamper(&format!("DELETE FROM user_tokens WHERE id = '{stored}'")).await?;
    held.commit().await?;
    testing.await??.expect(404)?;
    assert!(provider.seen.lock().is_empty(), "a deleted token was used");
    world.wait_until_projected().await?;
    assert_eq!(actions(&alice, "/api/tokens/audit").await?, ["used", "stored"]);
    Ok(())
}

/// No record, no use: the log is asked before the token is opened.
#[tokio::test]
async fn without_a_record_there_is_no_use() -> Result<()> {
    let provider = Provider::answering(200).await?;
    let world = world_with(&provider).await?;
    let alice = world.user("alice")?;
    let stored = id(&store(&alice, &token("github", GITHUB)).await?.expect(201)?)?;
    world.api.handle.publisher.clone().close().await;
    let refused = test(&alice, &stored).await?.expect(503)?;
    assert!(refused.header("retry-after").is_some());
    assert!(provider.seen.lock().is_empty());
    Ok(())
}

#[tokio::test]
async fn nobody_else_opens_a_user_s_token() -> Result<()> {
    let provider = Provider::answering(200).await?;
    let world = world_with(&provider).await?;
    let alice = world.user("alice")?;
    let stored = id(&store(&alice, &token("github", GITHUB)).await?.expect(201)?)?;
    for role in [Role::Service, Role::Admin] {
        test(&world.client("alice", role)?, &stored).await?.expect(403)?;
    }
    assert!(provider.seen.lock().is_empty());
    Ok(())
}
