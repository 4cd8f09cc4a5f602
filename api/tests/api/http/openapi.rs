//! The document: generated from the handlers, checked in, and served.

use std::path::Path;

use anyhow::{Context, Result};
use testkit::{Env, PATIENCE, PrivateServers, World, wait_until};

/// `UPDATE=1 cargo test -p api --test api openapi` writes it anew.
#[test]
fn the_checked_in_document_is_current() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let mut current = serde_json::to_string_pretty(&api::router::document())?;
    current.push('\n');
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &current)?;
    }
    let checked_in = std::fs::read_to_string(&path).context("api/openapi.json")?;
    assert!(
        checked_in == current,
        "api/openapi.json is stale; run: UPDATE=1 cargo test -p api --test api openapi"
    );
    Ok(())
}

#[test]
fn every_operation_says_what_it_answers_and_who_may_ask() -> Result<()> {
    let document = serde_json::to_value(api::router::document())?;
    for (path, item) in document["paths"].as_object().context("paths")? {
        for (method, operation) in item.as_object().context("operations")? {
            let said = |member: &str| operation[member].as_str().is_some_and(|text| !text.is_empty());
            assert!(said("summary"), "{method} {path} has no summary");
            let answers = operation["responses"].as_object().context("responses")?;
            assert!(!answers.is_empty(), "{method} {path} has no answers");
        }
    }
    let codes = document["components"]["schemas"]["Code"]["enum"].as_array().map(Vec::len);
    let one_of = document["components"]["schemas"]["Code"]["oneOf"].as_array().map(Vec::len);
    assert!(codes.or(one_of).is_some_and(|codes| codes > 15), "the codes of problems are listed");
    Ok(())
}

#[test]
fn every_refusal_is_a_problem_and_the_common_ones_are_everywhere() -> Result<()> {
    let document = serde_json::to_value(api::router::document())?;
    for (path, item) in document["paths"].as_object().context("paths")? {
        for (method, operation) in item.as_object().context("operations")? {
            let responses = operation["responses"].as_object().context("responses")?;
            let is_public = operation["security"] == serde_json::json!([{}]);
            let needed: &[&str] = match (is_public, operation["requestBody"].is_null()) {
                (true, _) if path == "/healthz" => &["500"],
                (true, _) => &["500", "503"],
                (false, true) => &["401", "403", "429", "500", "503"],
                (false, false) => &["400", "401", "403", "408", "413", "415", "422", "429", "500", "503"],
            };
            for status in needed {
                assert!(responses.contains_key(*status), "{method} {path} does not tell of {status}");
            }
            for (status, response) in responses.iter().filter(|(status, _)| status.starts_with(['4', '5'])) {
                let named = response["$ref"].as_str().map(|name| name.trim_start_matches('#'));
                let response = named.and_then(|name| document.pointer(name)).unwrap_or(response);
                let kinds: Vec<&String> =
                    response["content"].as_object().into_iter().flat_map(|c| c.keys()).collect();
                // What is not ready says so by the same report as what is.
                let is_report = path == "/readyz" && status == "503";
                let expected = if is_report { "application/json" } else { "application/problem+json" };
                assert_eq!(kinds, [expected], "{method} {path} {status}");
            }
        }
    }
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    Ok(())
}

/// Whoever is asked without a credential is asked by everybody: also when nothing else works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_public_answers_as_described_when_the_database_is_stopped() -> Result<()> {
    let servers = PrivateServers::start().await?;
    let world = World::in_env(Env::on(&servers).await?, &[]).await?;
    let client = world.anonymous()?;
    let document = serde_json::to_value(api::router::document())?;
    servers.postgres.kill().await;
    wait_until(PATIENCE, || async {
        client.get("/api/usage/plans").send().await.is_ok_and(|answer| answer.status == 503)
    })
    .await;
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().context("paths")? {
        for (method, operation) in item.as_object().context("operations")? {
            if operation["security"] != serde_json::json!([{}]) {
                continue;
            }
            let answer = client.request(method.to_uppercase().parse()?, path).send().await?;
            let said = &operation["responses"][answer.status.as_str()];
            let said = match said["$ref"].as_str() {
                Some(name) => document.pointer(name.trim_start_matches('#')).context("a response")?,
                None => said,
            };
            let kind =
                answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
            let is_said = !said.is_null() && (answer.body.is_empty() || !said["content"][kind].is_null());
            assert!(is_said, "{method} {path}: {} {kind} is not described", answer.status);
            asked += 1;
        }
    }
    assert!(asked >= 3, "{asked}");
    Ok(())
}

#[tokio::test]
async fn a_method_that_is_not_described_is_405_with_those_that_are() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let client = world.service()?;
    let document = serde_json::to_value(api::router::document())?;
    for (path, item) in document["paths"].as_object().context("paths")? {
        if path.contains("forward-auth") {
            continue;
        }
        let filled = path.replace(['{', '}'], "");
        let answer = client.request("TRACE".parse()?, &filled).send().await?;
        crate::answers::assert_problem(&answer, 405, "method_not_allowed");
        let allowed: Vec<&str> =
            answer.header("allow").context("no Allow")?.split(',').map(str::trim).collect();
        for method in item.as_object().context("operations")?.keys() {
            assert!(allowed.contains(&method.to_uppercase().as_str()), "{path} {method}: {allowed:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_served_document_names_the_public_address() -> Result<()> {
    let url = "https://usage.example/ledger";
    let world = World::without_worker(&[("PUBLIC_URL", url)]).await?;
    let served = world.anonymous()?.get("/openapi.json").send().await?.expect(200)?.json()?;
    assert_eq!(served["servers"], serde_json::json!([{"url": url}]));
    Ok(())
}

#[tokio::test]
async fn the_document_and_its_pages_are_served() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let client = world.anonymous()?;
    let served = client.get("/openapi.json").send().await?.expect(200)?.json()?;
    assert_eq!(served, serde_json::to_value(api::router::document())?);
    let page = client.get("/docs/").send().await?.expect(200)?;
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    let policy = page.header("content-security-policy").context("no policy")?;
    assert!(policy.contains("default-src 'self'") && !policy.contains("script-src"), "{policy}");
    let html = page.text();
    assert!(!html.contains("<script>") && !html.contains("http://") && !html.contains("https://"), "{html}");
    let is_asset = |text: &&str| [".js", ".css"].iter().any(|end| text.ends_with(end));
    for asset in html.split(['"', '\'']).filter(is_asset) {
        client.get(&format!("/docs/{}", asset.trim_start_matches("./"))).send().await?.expect(200)?;
    }
    client.get("/docs/nothing.js").send().await?.expect(404)?;
    Ok(())
}
