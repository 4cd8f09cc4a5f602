//! The description of the api against the api itself: schemathesis makes requests of it, good and bad ones, and looks
//! whether each answer is one that is described. `EXPLORE_SEED=2` makes other requests than usually.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Role, World};

use crate::programs;

/// The run itself, in seconds; what it takes to end comes on top.
const SECONDS: &str = "60";
const BOUND: Duration = Duration::from_mins(2);
/// Principals of each role. Few requests of one of them are made in the same second.
const PRINCIPALS: usize = 60;
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,allow_header_conformance";

/// A token that is stored, of this principal.
async fn stored_token(world: &World, name: &str) -> Result<Value> {
    let body = json!({"token_type": "github", "token": format!("ghp_{}", "q7Rz0TkW2mXv9LbN".repeat(2)), "token_name": name});
    let answer = world.user(name)?.post("/api/tokens").json(&body).send().await?.expect(201)?;
    Ok(answer.json()?["id"].clone())
}

/// An API key of this principal.
async fn api_key(world: &World, name: &str) -> Result<Value> {
    let body = json!({"name": name, "scopes": ["read", "check"], "budget": 10});
    let answer = world.user(name)?.post("/api/keys").json(&body).send().await?.expect(201)?;
    Ok(answer.json()?["id"].clone())
}

/// A call that waits for its outcome.
async fn recorded_call(world: &World) -> Result<Value> {
    let body = json!({"user_id": "ada", "endpoint": "/api/analyze", "record": true});
    let answer = world.service()?.post("/api/usage/check").json(&body).send().await?.expect(200)?;
    Ok(answer.json()?["call_id"].clone())
}

/// Operations that are described.
fn operations() -> Result<usize> {
    let document = serde_json::to_value(api::router::document())?;
    let paths = document["paths"].as_object().context("paths")?;
    Ok(paths.values().filter_map(Value::as_object).map(serde_json::Map::len).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_one_that_is_described() -> Result<()> {
    // Nobody listens there: what providers would say is none of this test's business.
    let nobody = "http://127.0.0.1:9";
    let providers = ["GITHUB_API_URL", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GEMINI_BASE_URL"];
    let world = World::with(&providers.map(|name| (name, nobody))).await?;
    let service = world.service()?;
    service.put("/api/users/ada").json(&json!({})).send().await?.expect(201)?;
    let dir = tempfile::tempdir()?;
    let (mut tokens, mut stored, mut keys) = (String::new(), json!({}), json!({}));
    for number in 0..PRINCIPALS {
        for (role, name) in [(Role::User, "user"), (Role::Service, "service"), (Role::Admin, "admin")] {
            let name = format!("{name}-{number}");
            writeln!(tokens, "{name}={}", world.env.token(&name, role))?;
        }
        if number < 5 {
            let name = format!("user-{number}");
            stored[&name] = stored_token(&world, &name).await?;
            keys[&name] = api_key(&world, &name).await?;
        }
    }
    let call_id = recorded_call(&world).await?;
    let names = json!({"user": "ada", "month": "2026-10", "path": "api/analyze", "call_id": call_id, "id": call_id, "tokens": stored, "keys": keys});
    let (tokens_file, names_file) = (dir.path().join("tokens"), dir.path().join("names.json"));
    std::fs::write(&tokens_file, tokens)?;
    std::fs::write(&names_file, names.to_string())?;

    let document = format!("{}/openapi.json", world.api.url);
    let program = programs::installed().await?.join("python/bin/schemathesis");
    let mut schemathesis = tokio::process::Command::new(program);
    schemathesis.args(["run", &document, "--checks", CHECKS, "--max-time", SECONDS, "--max-examples", "30"]);
    let seed = std::env::var("EXPLORE_SEED").unwrap_or_else(|_| "1".to_owned());
    schemathesis.args(["--phases", "examples,coverage,fuzzing", "--seed", &seed, "--continue-on-failure"]);
    // One worker: the parser of Python 3.11 fails in two threads at once.
    schemathesis.args(["--workers", "1", "--no-color", "--warnings", "off"]);
    schemathesis.current_dir(dir.path()).env("SCHEMATHESIS_HOOKS", "schemathesis_hooks");
    schemathesis.env("PYTHONPATH", programs::folder()).env("PYTHONDONTWRITEBYTECODE", "1");
    schemathesis.env("EXPLORE_TOKENS", &tokens_file).env("EXPLORE_NAMES", &names_file);
    let said = programs::run(&mut schemathesis, BOUND).await.context("an answer is not as described")?;
    let operations = operations()?;
    assert!(operations > 25 && said.contains(&format!("Tested: {operations}")), "{operations}: {said}");
    Ok(())
}
