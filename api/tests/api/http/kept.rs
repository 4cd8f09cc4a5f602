//! What is kept of idempotency keys: for whom, and how much.

use std::sync::Arc;

use anyhow::Result;
use api::http::idempotency::{Allowance, Idempotency, KeyOwner, KeyedRequest};
use axum::http::Request;
use axum::response::IntoResponse as _;
use ledger::UserId;
use parking_lot::Mutex;
use serde_json::{Value, json};
use testkit::{Answer, Client, Role, World};
use tokio_util::task::TaskTracker;

use crate::answers::assert_problem;

/// A report of items that are wrong in a way that takes many words, which names `mark`.
fn wordy(mark: usize) -> Value {
    let long = "é".repeat(120);
    let item = |index: usize| json!({"id": format!("{mark}-{index}-{long}"), "data": {(format!("{index}{long}")): 1}});
    (0..1_000).map(item).collect()
}

async fn report(client: &Client, key: &str, body: &Value) -> Result<Answer> {
    client.post("/api/usage/events").header("idempotency-key", key).json(body).send().await
}

/// Rows of keys, and the bytes of all that was answered.
async fn kept(world: &World) -> Result<(i64, i64)> {
    let rows = "SELECT count(*), COALESCE(sum(octet_length(response) + octet_length(headers)), 0)::bigint
                FROM public.idempotency_keys";
    Ok(sqlx::query_as(rows).fetch_one(world.env.pool()).await?)
}

#[tokio::test]
async fn a_key_is_a_principal_s_in_one_role() -> Result<()> {
    let world = World::start().await?;
    let body = json!({"user_id": "ada", "endpoint": "/api/analyze", "record": true});
    world.service()?.put("/api/users/ada").json(&json!({})).send().await?.expect(201)?;
    let mut calls = Vec::new();
    for role in [Role::User, Role::Service, Role::Admin] {
        let client = world.client("ada", role)?;
        for is_repeat in [false, true] {
            let request = client.post("/api/usage/check").header("idempotency-key", "k").json(&body);
            let answer = request.send().await?.expect(200)?;
            assert_eq!(answer.header("idempotency-replayed").is_some(), is_repeat, "{role:?}");
            calls.push(answer.json()?["call_id"].to_string());
        }
    }
    calls.sort();
    calls.dedup();
    assert_eq!(calls.len(), 3, "each role has an answer of its own");
    assert_eq!(world.summary("ada").await?, (3, 3));
    Ok(())
}

#[tokio::test]
async fn answers_that_are_kept_of_a_user_are_bounded() -> Result<()> {
    const MIB: i64 = 1024 * 1024;
    let world = World::without_worker(&[]).await?;
    let ada = world.user("ada")?;
    // What was large enough to be kept in no time is not kept: the same request is simply done again.
    for key in 0..3 {
        for _ in 0..2 {
            let answer = report(&ada, &format!("large-{key}"), &wordy(key)).await?.expect(422)?;
            assert!(answer.body.len() > 512 * 1024, "{}", answer.body.len());
            assert_eq!(answer.header("idempotency-replayed"), None);
        }
    }
    let large: Value = wordy(0).as_array().into_iter().flatten().take(450).cloned().collect();
    let (_, bytes) = kept(&world).await?;
    assert_eq!(bytes, 0);
    let mut refused = None;
    for key in 0..400 {
        let answer = report(&ada, &format!("k-{key}"), &large).await?;
        if answer.status == 429 {
            refused = Some((key, answer));
            break;
        }
        answer.expect(422)?;
    }
    let Some((keys, refused)) = refused else {
        anyhow::bail!("400 answers are kept: {:?}", kept(&world).await?)
    };
    let problem = assert_problem(&refused, 429, "rate_limited");
    assert!(
        problem["type"].to_string().contains("temporary-reduced-capacity")
            && refused.header("retry-after").is_some()
    );
    let (rows, bytes) = kept(&world).await?;
    assert_eq!(rows, keys + 3, "what is refused leaves no row");
    assert!((16 * MIB..=33 * MIB).contains(&bytes), "{bytes}");
    // What is kept is answered as before, what needs no key passes, and others have an allowance of their own.
    let again = report(&ada, "k-0", &large).await?.expect(422)?;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    ada.post("/api/usage/events").json(&large).send().await?.expect(422)?;
    report(&world.user("bob")?, "k", &large).await?.expect(422)?;
    report(&world.client("ada", Role::Service)?, "k", &large).await?.expect(422)?;
    Ok(())
}

/// Metered paths have no limit but the plan's: who asks for many users is never refused, and counts nothing twice.
#[tokio::test]
async fn beyond_its_allowance_a_service_s_repeat_is_done_again_with_the_same_event() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let idempotency = Idempotency::new(world.env.pool().clone(), world.env.clock.clone(), TaskTracker::new());
    let owner = KeyOwner {
        user: UserId::new(world.env.ids.random_id()),
        role: "service",
        allowance: Allowance::lenient(3, u32::MAX),
    };
    let tried = Arc::new(Mutex::new(Vec::new()));
    let run = async |key: usize, body: &[u8]| {
        let head = Request::post("/api/usage/check").header("idempotency-key", format!("k{key}")).body(())?;
        let request = KeyedRequest::of(&head.into_parts().0, body).map_err(|_| anyhow::anyhow!("no key"))?;
        let tried = Arc::clone(&tried);
        let answer = idempotency.run(owner, request, move |attempt| async move {
            tried.lock().push((key, attempt.event_id));
            Ok("done".into_response())
        });
        Ok::<_, anyhow::Error>(
            answer.await.map_or_else(|problem| problem.status(), |it| it.status()).as_u16(),
        )
    };
    for _ in 0..2 {
        for key in 0..20 {
            assert_eq!(run(key, b"{}").await?, 200, "{key}");
        }
    }
    assert_eq!(run(19, b"{} ").await?, 422, "the hash is kept");
    let (_, bytes) = kept(&world).await?;
    assert!(bytes < 1_000, "{bytes}");
    let mut events = tried.lock().clone();
    assert!(
        (36..=38).contains(&events.len()),
        "the first of 20 are answered from what is kept: {}",
        events.len()
    );
    events.sort();
    events.dedup();
    assert_eq!(events.len(), 20, "a key has one event, however often it is tried");
    Ok(())
}

/// What one role was told is no answer to another, also where nobody knows which role it was.
#[tokio::test]
async fn an_earlier_key_is_every_role_s_without_its_answer() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let earlier = "ALTER TABLE public.idempotency_keys DROP CONSTRAINT idempotency_keys_pkey;
        ALTER TABLE public.idempotency_keys DROP COLUMN role;
        ALTER TABLE public.idempotency_keys
            ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (principal, method, path, key);
        INSERT INTO public.idempotency_keys (principal, method, path, key, body_hash, event_id, status_code, headers,
            response, locked_until, created_at)
        VALUES (gen_random_uuid(), 'POST', '/api/usage/check', 'k', '\\x01', gen_random_uuid(), 200, 'a: b', 'told',
            now(), now());";
    sqlx::raw_sql(earlier).execute(world.env.pool()).await?;
    let migration = include_str!("../../../../migrations/0008_idempotency_roles.sql");
    sqlx::raw_sql(migration).execute(world.env.pool()).await?;
    let rows = "SELECT string_agg(role || ' ' || COALESCE(status_code::text, '-')
                    || COALESCE(headers, '-') || COALESCE(encode(response, 'escape'), '-'), ', ' ORDER BY role)
                FROM public.idempotency_keys";
    assert_eq!(world.text(rows).await?, "admin ---, service ---, user 200a: btold");
    let same = "SELECT count(DISTINCT (principal, event_id, body_hash, locked_until, created_at))::text
                FROM public.idempotency_keys";
    assert_eq!(world.text(same).await?, "1");
    Ok(())
}
