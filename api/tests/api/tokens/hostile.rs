//! Input of somebody who means harm, or who put a token where it does not belong: a clear error that repeats nothing.

use anyhow::Result;
use serde_json::{Value, json};
use testkit::{Role, World};

use super::{GITHUB, OPENAI, actions, id, store, token};

/// A token in the wrong place.
const SECRET: &str = "ghp_DoNotRepeatThisDoNotRepeatThisDoNotRep";

#[tokio::test]
async fn what_is_wrong_is_told_and_never_repeated() -> Result<()> {
    let world = World::start().await?;
    let alice = world.user("alice")?;
    let long = format!("ghp_{}", "x".repeat(4_093));
    let bodies: Vec<(Value, &str, &str)> = vec![
        (token("github", ""), "/token", "empty"),
        (token("github", &long), "/token", "too_long"),
        (token("github", &format!("{SECRET}\n")), "/token", "invalid_character"),
        (token("github", &format!("{SECRET} x")), "/token", "invalid_character"),
        (token("github", &format!("{SECRET}\u{0}")), "/token", "invalid_character"),
        (token("github", &format!("{SECRET}\u{202e}")), "/token", "invalid_character"),
        (token("openai", SECRET), "/token", "other_type"),
        (token(SECRET, SECRET), "/token_type", "invalid"),
        (token("Github", SECRET), "/token_type", "invalid"),
        (json!({"token_type": "github"}), "/token", "missing"),
        (json!({"token": SECRET}), "/token_type", "missing"),
        (json!({"token_type": "github", "token": [SECRET]}), "/token", "invalid"),
        (json!({"token_type": {"x": SECRET}, "token": SECRET}), "/token_type", "invalid"),
        (json!({"token_type": "github", "token": 8_675_309}), "/token", "invalid"),
        (
            json!({"token_type": "github", "token": SECRET, "token_name": "\u{202e}x"}),
            "/token_name",
            "invalid",
        ),
        (json!({"token_type": "github", "token": SECRET, "token_name": ""}), "/token_name", "invalid"),
        (
            json!({"token_type": "github", "token": SECRET, "token_name": "x".repeat(256)}),
            "/token_name",
            "invalid",
        ),
        (
            json!({"token_type": "github", "token": SECRET, "token_name": SECRET}),
            "/token_name",
            "contains_token",
        ),
        (
            json!({"token_type": "github", "token": SECRET, "token_name": format!("mine: {SECRET}!")}),
            "/token_name",
            "contains_token",
        ),
        (json!({"token_type": "github", "token": SECRET, "user_id": "bob"}), "", "unknown_field"),
        (json!({"token_type": "github", "token": SECRET, SECRET: 1}), "", "unknown_field"),
        (json!({SECRET: SECRET}), "", "unknown_field"),
        (json!([SECRET]), "", "invalid"),
        (json!(SECRET), "", "invalid"),
    ];
    for (body, pointer, code) in bodies {
        let refused = store(&alice, &body).await?.expect(422)?;
        let problem = refused.json()?;
        assert_eq!(problem["code"], "validation_failed", "{body}");
        assert_eq!(
            (&problem["errors"][0]["pointer"], &problem["errors"][0]["code"]),
            (&pointer.into(), &code.into()),
            "{body}: {problem}"
        );
        silent(&refused.text());
    }
    let raw = |body: String| alice.post("/api/tokens").body("application/json", body).send();
    silent(&raw(format!("{{\"token_type\": \"github\", \"token\": \"{SECRET}")).await?.expect(400)?.text());
    silent(&raw(SECRET.to_owned()).await?.expect(400)?.text());
    silent(&raw(format!("{{\"token\": \"{SECRET}\", \"token\": \"{SECRET}\"}}")).await?.expect(422)?.text());
    let large = format!("{{\"token_type\": \"github\", \"token\": \"{}\"}}", SECRET.repeat(125_000));
    silent(&raw(large).await?.expect(413)?.text());
    let text = alice.post("/api/tokens").body("text/plain", SECRET).send().await?.expect(415)?;
    silent(&text.text());
    assert!(actions(&alice, "/api/tokens/audit").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_token_in_the_path_or_the_query_is_not_repeated() -> Result<()> {
    let world = World::start().await?;
    let alice = world.user("alice")?;
    store(&alice, &token("github", GITHUB)).await?.expect(201)?;
    for (method, path) in [
        ("GET", format!("/api/tokens/{SECRET}")),
        ("DELETE", format!("/api/tokens/{SECRET}")),
        ("POST", format!("/api/tokens/{SECRET}/test")),
        ("GET", format!("/api/tokens/{SECRET}/audit")),
        ("PATCH", format!("/api/tokens/{SECRET}")),
        ("GET", format!("/api/tokens/x/{SECRET}")),
        ("GET", format!("/api/tokens?token={SECRET}")),
        ("GET", format!("/api/tokens?limit={SECRET}")),
        ("GET", format!("/api/tokens?cursor={SECRET}")),
        ("GET", format!("/api/tokens/audit?user_id={SECRET}")),
    ] {
        let answer = alice.request(method.parse()?, &path).send().await?;
        assert!(answer.status.is_client_error(), "{method} {path}: {}", answer.text());
        silent(&answer.text());
    }
    Ok(())
}

/// A token lands in the vault that was meant, or in none.
#[tokio::test]
async fn a_store_is_always_one_s_own() -> Result<()> {
    let world = World::start().await?;
    let (alice, bob) = (world.user("alice")?, world.user("bob")?);
    let stored = id(&store(&bob, &token("github", GITHUB)).await?.expect(201)?)?;
    let body = token("openai", OPENAI);
    for query in ["user_id=bob", "user_id=alice", "user_id=", "x"] {
        for path in ["/api/tokens", "/api/tokens/test", &format!("/api/tokens/{stored}/test")] {
            let refused = alice.post(&format!("{path}?{query}")).json(&body).send().await?.expect(422)?;
            assert_eq!(refused.json()?["errors"][0]["code"], "unknown_field", "{path}?{query}");
        }
    }
    for role in [Role::Admin, Role::Service] {
        store(&world.client("boss", role)?, &body).await?.expect(403)?;
    }
    world.wait_until_projected().await?;
    assert_eq!(world.text("SELECT string_agg(action, ' ') FROM token_audit").await?, "stored");
    Ok(())
}

#[track_caller]
fn silent(answer: &str) {
    assert!(!answer.contains("DoNotRepeat"), "{answer}");
}
