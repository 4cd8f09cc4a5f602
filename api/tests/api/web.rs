//! The pages for people, as a browser gets them.

use std::time::Duration;

use anyhow::{Context, Result};
use axum::http::Method;
use testkit::World;
use tokio::process::Command;

use crate::answers::assert_problem;
use crate::programs;

#[tokio::test]
async fn pages_run_nothing_that_stands_in_them() -> Result<()> {
    let world = World::without_worker(&[("PUBLIC_URL", "https://ledger.example.com")]).await?;
    let client = world.anonymous()?;
    for (path, kind) in [
        ("/sign-in", "text/html"),
        ("/account", "text/html"),
        ("/assets/page.css", "text/css"),
        ("/assets/api.js", "text/javascript"),
        ("/assets/next.js", "text/javascript"),
        ("/assets/sign-in.js", "text/javascript"),
        ("/assets/account.js", "text/javascript"),
    ] {
        let answer = client.get(path).send().await?.expect(200)?;
        assert_eq!(answer.header("content-type"), Some(&*format!("{kind}; charset=utf-8")), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
        assert!(answer.header("strict-transport-security").is_some(), "{path}");
        let policy = answer.header("content-security-policy").context("a policy")?;
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        if kind == "text/html" {
            let page = answer.text();
            let scripts = page.matches("<script").count();
            assert_eq!(scripts, page.matches("<script type=\"module\" src=\"/assets/").count(), "{path}");
            assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" on"), "{path}");
        }
        let tag = answer.header("etag").context("a tag")?.to_owned();
        let known = client.get(path).header("if-none-match", &format!("\"x\", W/{tag}")).send().await?;
        assert_eq!((known.status.as_u16(), known.body.len()), (304, 0), "{path}");
        client.get(path).header("if-none-match", "\"x\"").send().await?.expect(200)?;
        let head = client.request(Method::HEAD, path).send().await?.expect(200)?;
        assert!(head.body.is_empty(), "{path}");
    }
    for path in ["/assets/", "/assets/x.js", "/assets/..%2fmod.rs", "/sign-in/", "/account.html"] {
        assert_problem(&client.get(path).send().await?, 404, "not_found");
    }
    assert_problem(&client.post("/sign-in").send().await?, 405, "method_not_allowed");
    Ok(())
}

/// The scripts ask for what there is.
#[tokio::test]
async fn what_the_pages_ask_for_is_there() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let document = serde_json::to_value(api::router::document())?;
    let paths = document["paths"].as_object().context("paths")?;
    for file in ["sign-in.js", "account.js"] {
        let script = world.anonymous()?.get(&format!("/assets/{file}")).send().await?.expect(200)?.text();
        let asked = script.split(['"', '`']).filter(|text| text.starts_with("/api/"));
        let mut count = 0;
        for path in asked {
            let path = path.split('?').next().unwrap_or_default();
            let path = path.replace("${setup.factor_id}", "{id}").replace("${factor.factor_id}", "{id}");
            let path = path.replace("${session.session_id}", "{id}");
            assert!(paths.contains_key(&path), "{file}: {path}");
            count += 1;
        }
        assert!(count > 3, "{file}: {count}");
    }
    Ok(())
}

/// The script's rule for where to go on is the server's.
#[tokio::test]
async fn a_page_leads_nowhere_else() -> Result<()> {
    let rule = include_str!("../../src/web/assets/next.js");
    let cases = [
        ("/account", "/account"),
        ("/usage?month=2026-11#top", "/usage?month=2026-11#top"),
        ("", "/account"),
        ("account", "/account"),
        ("//evil.example", "/account"),
        ("/\\evil.example", "/account"),
        ("\\\\evil.example", "/account"),
        ("https://evil.example", "/account"),
        ("javascript:alert(1)", "/account"),
        ("/\t/evil.example", "/account"),
        (" //evil.example", "/account"),
        ("/.//evil.example", "/account"),
        ("/a/..//evil.example", "/account"),
        ("/@evil.example", "/@evil.example"),
    ];
    let asked = serde_json::to_string(&cases.map(|(asked, _)| asked))?;
    let script = format!(
        "{rule}\nfor (const asked of {asked}) console.log(placeOf(asked, 'https://here.example'));\n\
         console.log(placeOf(null, 'https://here.example'));"
    );
    let mut node = Command::new("node");
    node.args(["--input-type=module", "--eval", &script]);
    let said = programs::run(&mut node, Duration::from_mins(1)).await?;
    let expected: Vec<&str> = cases.iter().map(|(_, expected)| *expected).chain(["/account"]).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    Ok(())
}
