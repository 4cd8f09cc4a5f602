//! A key is made, shown once, changed, exchanged and revoked.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Role, World};

use super::key;
use crate::answers::assert_problem;

#[tokio::test]
async fn a_key_is_shown_once_and_kept_nowhere() -> Result<()> {
    let world = World::start().await?;
    let ada = world.user("ada")?;
    let body = json!({"name": "ci", "scopes": ["read", "check"], "networks": ["127.0.0.1"], "budget": 7,
                      "expires_at": "2199-01-01T00:00:00Z"});
    let create = || ada.post("/api/keys").header("idempotency-key", "one").json(&body).send();
    let answer = create().await?.expect(201)?;
    assert!(answer.header("ledger-seq").is_some());
    let made = answer.json()?;
    let secret = made["secret"].as_str().context("a secret")?.to_owned();
    assert!(secret.starts_with("ul_dev_") && secret.len() == 43, "{secret}");
    assert_eq!(made["prefix"], secret[..11]);
    assert_eq!(made["last_four"], secret[39..]);
    assert_eq!(made["scopes"], json!(["check", "read"]));
    assert_eq!(made["networks"], json!(["127.0.0.1/32"]));
    assert_eq!(
        (&made["budget"], &made["role"], &made["revoked_at"]),
        (&json!(7), &json!("user"), &Value::Null)
    );
    // Sent again it is the same key, without its secret.
    let again = create().await?.expect(201)?;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let again = again.json()?;
    assert_eq!((&again["id"], &again["secret"]), (&made["id"], &Value::Null));
    world.anonymous()?.with_token(&secret).get("/api/usage/stats").send().await?.expect(200)?;
    let mut shown = made.clone();
    shown.as_object_mut().context("an object")?.remove("secret");
    let list = ada.get("/api/keys").send().await?.expect(200)?;
    let mut listed = list.json()?["items"][0].clone();
    listed["last_used_at"] = Value::Null;
    assert_eq!(listed, shown);
    let path = format!("/api/keys/{}", made["id"].as_str().context("an id")?);
    let got = ada.get(&path).send().await?.expect(200)?;
    world.wait_until_projected().await?;
    let export = ada.get("/api/users/me/export").send().await?.expect(200)?;
    assert_eq!(export.json()?["api_keys"][0]["name"], "ci");
    assert_eq!(export.json()?["token_audit"][0]["action"], "key_created");
    assert_eq!(export.json()?["token_audit"][0]["ip_address"], "127.0.0.1");
    for text in [list.text(), got.text(), export.text(), everything(&world).await?] {
        assert!(!text.contains(&secret[11..39]), "{text:.300}");
    }
    Ok(())
}

/// Every row of the tables that could hold a secret, and every frame of the log, as text.
async fn everything(world: &World) -> Result<String> {
    let mut all = String::new();
    for table in [
        "public.api_keys",
        "public.api_key_secrets",
        "public.idempotency_keys",
        "token_audit",
        "security_log",
    ] {
        let rows: Vec<String> =
            sqlx::query_scalar(&format!("SELECT t::text FROM {table} t")).fetch_all(world.env.pool()).await?;
        all.extend(rows);
    }
    let kept: Vec<String> =
        sqlx::query_scalar("SELECT encode(response, 'escape') FROM public.idempotency_keys")
            .fetch_all(world.env.pool())
            .await?;
    anyhow::ensure!(!kept.is_empty(), "no answer was kept");
    all.extend(kept);
    let log = &world.api.handle.log;
    for seq in 1..=log.state().await?.last_seq {
        let frame = log.frame_at(seq).await?.context("a frame")?;
        all.push_str(&String::from_utf8_lossy(&frame.body));
    }
    anyhow::ensure!(all.contains("api_key_created"), "the log tells of no key");
    Ok(all)
}

#[tokio::test]
async fn a_key_is_presented_in_three_ways_and_never_in_the_url() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let made = key(&world, "ada", &["read"], json!({})).await?;
    let nobody = world.anonymous()?;
    let secret = &made.secret;
    for (name, value) in [
        ("authorization", format!("Bearer {secret}")),
        ("authorization", format!("token {secret}")),
        ("x-api-key", secret.clone()),
    ] {
        nobody.get("/api/usage/stats").header(name, &value).send().await?.expect(200)?;
    }
    for query in ["api_key", "key", "access_token", "token"] {
        let path = format!("/api/usage/stats?{query}={secret}");
        nobody.get(&path).send().await?.expect(401)?;
    }
    let two = made.client.get("/api/usage/stats").header("x-api-key", secret).send().await?;
    assert_problem(&two, 401, "unauthorized");
    let two = world.user("ada")?.get("/api/usage/stats").header("x-api-key", secret).send().await?;
    assert_problem(&two, 401, "unauthorized");
    // A key of the backend behind the proxy is none of ours.
    let other = world.user("ada")?.get("/api/usage/stats").header("x-api-key", "backend").send().await?;
    other.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn what_a_key_cannot_be_is_refused() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let (ada, boss) = (world.user("ada")?, world.client("boss", Role::Admin)?);
    ada.get("/api/keys").send().await?.expect(200)?;
    for (body, pointer) in [
        (json!({}), "/name"),
        (json!({"name": ""}), "/name"),
        (json!({"name": "x", "scopes": ["all"]}), "/scopes"),
        (json!({"name": "x", "scopes": ["plans"]}), "/scopes"),
        (json!({"name": "x", "role": "admin"}), "/role"),
        (json!({"name": "x", "role": "service", "scopes": ["tokens"]}), "/scopes"),
        (json!({"name": "x", "networks": ["10.0.0.0/33"]}), "/networks"),
        (json!({"name": "x", "budget": -1}), "/budget"),
        (json!({"name": "x", "budget": 9_223_372_036_854_775_808_u64}), "/budget"),
        (json!({"name": "x", "expires_at": "2001-01-01T00:00:00Z"}), "/expires_at"),
        (json!({"name": "x", "expires_at": "never"}), "/expires_at"),
        (json!({"name": "x", "secret": "ul_dev_x"}), "/secret"),
    ] {
        let answer = boss.post("/api/keys?user_id=ada").json(&body).send().await?;
        let problem = assert_problem(&answer, 422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    let service = json!({"name": "x", "role": "service"});
    assert_problem(&ada.post("/api/keys").json(&service).send().await?, 403, "forbidden");
    boss.post("/api/keys?user_id=nobody").json(&json!({"name": "x"})).send().await?.expect(404)?;
    let other = world.user("eve")?.post("/api/keys?user_id=ada").json(&json!({"name": "x"})).send().await?;
    assert_problem(&other, 404, "not_found");
    Ok(())
}

#[tokio::test]
async fn a_key_makes_and_changes_no_keys() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let own = key(&world, "ada", &["ingest", "check", "read", "tokens"], json!({})).await?;
    let service = json!({"role": "service"});
    let service =
        key(&world, "backend", &["ingest", "check", "read", "plans", "users", "erase"], service).await?;
    for (client, id) in [(&own.client, &own.id), (&service.client, &service.id)] {
        let path = format!("/api/keys/{id}");
        let rotate = format!("{path}/rotate");
        let answers = [
            client.post("/api/keys").json(&json!({"name": "x"})).send().await?,
            client.get("/api/keys").send().await?,
            client.get(&path).send().await?,
            client.patch(&path).json(&json!({"budget": null})).send().await?,
            client.delete(&path).send().await?,
            client.post(&rotate).json(&json!({"overlap_seconds": 0})).send().await?,
        ];
        for answer in answers {
            assert_problem(&answer, 403, "forbidden");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_service_s_key_is_an_admin_s_alone() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let made = key(&world, "ada", &["read"], json!({"role": "service"})).await?;
    let ada = world.user("ada")?;
    let path = format!("/api/keys/{}", made.id);
    let rotate = format!("{path}/rotate");
    assert_eq!(ada.get(&path).send().await?.expect(200)?.json()?["role"], "service");
    for answer in [
        ada.patch(&path).json(&json!({"scopes": ["erase"]})).send().await?,
        ada.post(&rotate).json(&json!({"overlap_seconds": 0})).send().await?,
        ada.delete(&path).send().await?,
    ] {
        assert_problem(&answer, 403, "forbidden");
    }
    world.service()?.get("/api/keys?user_id=ada").send().await?.expect(403)?;
    made.client.get("/api/usage/stats?user_id=ada").send().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_user_has_fifty_keys_and_one_more_when_one_is_revoked() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let first = key(&world, "ada", &[], json!({})).await?;
    for _ in 1..50 {
        key(&world, "ada", &[], json!({})).await?;
    }
    let boss = world.client("boss", Role::Admin)?;
    let one_more = || boss.post("/api/keys?user_id=ada").json(&json!({"name": "x"})).send();
    assert_problem(&one_more().await?, 409, "conflict");
    boss.delete(&super::path("ada", &first)).send().await?.expect(204)?;
    one_more().await?.expect(201)?;
    let page = boss.get("/api/keys?user_id=ada&limit=50").send().await?.expect(200)?.json()?;
    let cursor = page["next_cursor"].as_str().context("another page")?;
    let rest = format!("/api/keys?user_id=ada&limit=50&cursor={cursor}");
    let rest = boss.get(&rest).send().await?.expect(200)?.json()?;
    assert_eq!(rest["items"].as_array().context("items")?.len(), 1);
    assert_eq!(rest["items"][0]["id"], first.id);
    assert!(rest["items"][0]["revoked_at"].is_string());
    Ok(())
}

#[tokio::test]
async fn what_happens_to_a_key_is_in_the_chain_before_the_answer() -> Result<()> {
    let world = World::start().await?;
    let ada = world.user("ada")?;
    let made = ada.post("/api/keys").json(&json!({"name": "x"})).send().await?.expect(201)?.json()?;
    let path = format!("/api/keys/{}", made["id"].as_str().context("an id")?);
    ada.patch(&path).json(&json!({"name": "y", "budget": 5})).send().await?.expect(200)?;
    let rotate = format!("{path}/rotate");
    ada.post(&rotate).json(&json!({"overlap_seconds": 60})).send().await?.expect(200)?;
    ada.delete(&path).send().await?.expect(204)?;
    ada.delete(&path).send().await?.expect(204)?;
    assert_problem(&ada.patch(&path).json(&json!({"name": "z"})).send().await?, 409, "conflict");
    world.wait_until_projected().await?;
    let audit = ada.get("/api/tokens/audit").send().await?.expect(200)?.json()?;
    let items = audit["items"].as_array().context("items")?;
    let actions: Vec<_> = items.iter().map(|item| item["action"].as_str().unwrap_or_default()).collect();
    assert_eq!(actions, ["key_revoked", "key_rotated", "key_changed", "key_created"]);
    assert!(items.iter().all(|item| item["token_id"] == made["id"] && item["token_type"] == "api_key"));
    assert!(items.iter().all(|item| item["ip_address"] == "127.0.0.1"));
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM public.api_keys WHERE unlogged_id IS NOT NULL")
        .fetch_one(world.env.pool())
        .await?;
    assert_eq!(left, 0);
    Ok(())
}

#[tokio::test]
async fn a_revocation_that_nobody_told_of_is_told_of_later() -> Result<()> {
    let world = World::start().await?;
    let made = key(&world, "ada", &["read"], json!({})).await?;
    // As a process leaves it that dies between the table and the log.
    sqlx::query(
        "UPDATE public.api_keys SET revoked_at = now(), unlogged_id = gen_random_uuid(), unlogged_kind = 'user',
             unlogged_by = user_id::text",
    )
    .execute(world.env.pool())
    .await?;
    let registry = world.api.handle.state.api_keys.registry().clone();
    let later = world.env.clock.now() + chrono::Duration::minutes(1);
    for _ in 0..2 {
        registry.log_unlogged(later).await?;
    }
    world.wait_until_projected().await?;
    let audit = world.user("ada")?.get("/api/tokens/audit").send().await?.expect(200)?.json()?;
    assert_eq!(audit["items"][0]["action"], "key_revoked");
    assert_eq!(audit["items"][0]["token_id"], made.id);
    assert_eq!(audit["items"][1]["action"], "key_created");
    Ok(())
}
