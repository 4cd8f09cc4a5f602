//! `usage-ledger user` and `usage-ledger admin`, as operators meet them, beside an api.

#[expect(dead_code, reason = "shared with the tests of dev, which need more of it")]
mod program;

use anyhow::{Context as _, Result};
use program::{DataDir, Output, output};
use serde_json::{Value, json};
use testkit::{PATIENCE, World, wait_until};

const OPEN: (&str, &str) = ("REGISTRATION", "open");
const HERE: (&str, &str) = ("PUBLIC_URL", "https://ledger.example.com");
const PASSWORD: &str = "correct horse battery staple 7";

async fn run(world: &World, dir: &DataDir, arguments: &[&str]) -> Result<Output> {
    let variables = [&world.env.variables()[..], &[OPEN, HERE]].concat();
    output(dir, arguments, &variables).await
}

/// The secret of the link that a command prints.
async fn secret(world: &World, dir: &DataDir, arguments: &[&str], kind: &str) -> Result<String> {
    let refused = run(world, dir, arguments).await?;
    assert_eq!((refused.code, refused.text.as_str()), (Some(1), ""), "stdout is no terminal");
    assert!(refused.errors.contains("--print"), "{}", refused.errors);
    let made = run(world, dir, &[arguments, &["--print"]].concat()).await?;
    let errors = made.errors.clone();
    let printed = made.expect_success()?;
    let secret = printed.trim_end().strip_prefix(&format!("https://ledger.example.com/sign-in#{kind}="));
    let secret = secret.with_context(|| printed.clone())?.to_owned();
    assert!(!errors.contains(&secret) && errors.contains("good once, until"), "{errors}");
    Ok(secret)
}

/// Posts as a page does; answers the cookie.
async fn post(world: &World, path: &str, body: &Value) -> Result<String> {
    let answer = world.anonymous()?.post(path).json(body).send().await?.expect(200)?;
    let cookie = answer.header("set-cookie").context("a cookie")?;
    Ok(cookie.split(';').next().unwrap_or_default().to_owned())
}

async fn session(world: &World, cookie: &str) -> Result<u16> {
    let answer = world.anonymous()?.get("/api/auth/session").header("cookie", cookie).send().await?;
    Ok(answer.status.as_u16())
}

#[tokio::test]
async fn an_operator_lets_people_in_and_bars_them() -> Result<()> {
    let (world, dir) = (World::with(&[OPEN, HERE]).await?, DataDir::new()?);
    let link = secret(&world, &dir, &["admin", "link", "--email", "boss@example.com"], "link").await?;
    let boss = post(&world, "/api/auth/link", &json!({"token": link})).await?;
    let me = world.anonymous()?.get("/api/auth/session").header("cookie", &boss).send().await?.expect(200)?;
    assert_eq!(me.json()?["role"], "admin");
    let invitation = secret(&world, &dir, &["user", "invite", "Ada@Example.com"], "invitation").await?;
    let body = json!({"invitation": invitation, "password": PASSWORD, "name": "Ada\u{202e}"});
    world.anonymous()?.post("/api/auth/register").json(&body).send().await?.expect(422)?;
    let body = json!({"invitation": invitation, "password": PASSWORD, "name": "Ada"});
    let ada = post(&world, "/api/auth/register", &body).await?;
    let again = run(&world, &dir, &["user", "invite", "ada@example.com", "--print"]).await?;
    assert!(again.code == Some(1) && again.errors.contains("reset-link"), "{}", again.errors);
    let listed = run(&world, &dir, &["user", "list"]).await?.expect_success()?;
    let row = listed.lines().find(|line| line.contains("\tAda@Example.com\t")).context("Ada")?;
    let columns: Vec<&str> = row.split('\t').collect();
    assert_eq!(columns[4..], ["Ada", "active", "user"], "{row}");
    let shown = run(&world, &dir, &["user", "show", columns[0]]).await?.expect_success()?;
    for part in ["signs in  email Ada@Example.com\n", "password  set\n", "session   "] {
        assert!(shown.contains(part), "{shown}");
    }
    run(&world, &dir, &["user", "suspend", columns[0]]).await?.expect_success()?;
    wait_until(PATIENCE, || async { session(&world, &ada).await.is_ok_and(|status| status != 200) }).await;
    let login = json!({"email": "ada@example.com", "password": PASSWORD});
    world.anonymous()?.post("/api/auth/login").json(&login).send().await?.expect(403)?;
    let barred = run(&world, &dir, &["user", "reset-link", columns[0], "--print"]).await?;
    assert!(barred.code == Some(1) && barred.errors.contains("suspended"), "{}", barred.errors);
    run(&world, &dir, &["user", "suspend", columns[0], "--off"]).await?.expect_success()?;
    let reset = secret(&world, &dir, &["user", "reset-link", columns[0]], "reset").await?;
    let body = json!({"token": reset, "password": "another horse battery staple 8"});
    let ada = post(&world, "/api/auth/reset", &body).await?;
    assert_eq!(session(&world, &ada).await?, 200);
    world.wait_until_projected().await?;
    let log = world.anonymous()?.get("/api/users/me/security-log").header("cookie", &ada);
    let log = log.send().await?.expect(200)?.json()?;
    let acts: Vec<(&str, &str)> = log["items"]
        .as_array()
        .context("items")?
        .iter()
        .filter_map(|item| Some((item["action"].as_str()?, item["actor"]["kind"].as_str()?)))
        .collect();
    for act in [
        ("status_changed", "operator"),
        ("link_made", "operator"),
        ("password_changed", "user"),
        ("signed_in", "user"),
    ] {
        assert!(acts.contains(&act), "{acts:?}");
    }
    for (arguments, said) in [
        (&["user", "invite", "no address", "--print"][..], "address"),
        (&["user", "show", "nobody"], "no such user"),
    ] {
        let refused = run(&world, &dir, arguments).await?;
        assert!(refused.code == Some(1) && refused.errors.contains(said), "{}", refused.errors);
    }
    Ok(())
}

#[tokio::test]
async fn an_invitation_that_nobody_could_take_is_not_made() -> Result<()> {
    let (world, dir) = (World::without_worker(&[]).await?, DataDir::new()?);
    let refused =
        output(&dir, &["user", "invite", "a@example.com", "--print"], &world.env.variables()).await?;
    assert!(refused.code == Some(1) && refused.errors.contains("REGISTRATION"), "{}", refused.errors);
    Ok(())
}
