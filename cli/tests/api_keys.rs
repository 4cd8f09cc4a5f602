//! `usage-ledger api-keys`, as operators meet it, beside an api.

#[expect(dead_code, reason = "shared with the tests of dev, which need more of it")]
mod program;

use anyhow::{Context as _, Result};
use program::{DataDir, Output, output};
use serde_json::json;
use testkit::{PATIENCE, World, wait_until};

async fn run(world: &World, dir: &DataDir, arguments: &[&str]) -> Result<Output> {
    output(dir, &[&["api-keys"], arguments].concat(), &world.env.variables()).await
}

#[tokio::test]
async fn an_operator_makes_lists_and_revokes_keys() -> Result<()> {
    let (world, dir) = (World::start().await?, DataDir::new()?);
    world.service()?.put("/api/users/ada").json(&json!({})).send().await?.expect(201)?;
    let create = ["create", "--user", "ada", "--name", "ci\u{1b}", "--scope", "read,check", "--budget", "7"];
    // What is no name is wrong usage.
    assert_eq!(run(&world, &dir, &[&create[..], &["--print"]].concat()).await?.code, Some(2));
    let create = ["create", "--user", "ada", "--name", "ci", "--scope", "read,check", "--budget", "7"];
    let refused = run(&world, &dir, &create).await?;
    assert_eq!((refused.code, refused.text.as_str()), (Some(1), ""), "stdout is no terminal");
    assert!(refused.errors.contains("--print"), "{}", refused.errors);
    let made = run(&world, &dir, &[&create[..], &["--print"]].concat()).await?;
    let errors = made.errors.clone();
    let secret = made.expect_success()?.trim_end().to_owned();
    assert!(secret.starts_with("ul_dev_") && secret.len() == 43 && !errors.contains(&secret), "{secret}");
    let client = world.anonymous()?.with_token(&secret);
    client.get("/api/usage/stats").send().await?.expect(200)?;
    let listed = run(&world, &dir, &["list", "--user", "ada"]).await?.expect_success()?;
    let columns: Vec<&str> = listed.trim_end().split('\t').collect();
    let shown = format!("{}…{}", &secret[..11], &secret[39..]);
    assert_eq!(columns[1..7], ["ci", "user", "check,read", "7", &shown, "live"], "{listed}");
    run(&world, &dir, &["revoke", columns[0]]).await?.expect_success()?;
    wait_until(PATIENCE, || async {
        client.get("/api/usage/stats").send().await.is_ok_and(|answer| answer.status == 401)
    })
    .await;
    let again = run(&world, &dir, &["revoke", columns[0]]).await?;
    assert!(again.errors.contains("before"), "{}", again.errors);
    let listed = run(&world, &dir, &["list", "--user", "ada"]).await?.expect_success()?;
    assert!(listed.contains("\trevoked "), "{listed}");
    world.wait_until_projected().await?;
    let audit = world.user("ada")?.get("/api/tokens/audit").send().await?.expect(200)?.json()?;
    let newest = audit["items"].get(0).context("an entry")?;
    assert_eq!((&newest["action"], &newest["actor"]["kind"]), (&json!("key_revoked"), &json!("operator")));
    let unknown = run(&world, &dir, &["list", "--user", "nobody"]).await?;
    assert_eq!(unknown.code, Some(1));
    let service = ["create", "--user", "ada", "--name", "x", "--scope", "plans", "--print"];
    let refused = run(&world, &dir, &service).await?;
    assert!(refused.code == Some(1) && refused.errors.contains("plans"), "{}", refused.errors);
    Ok(())
}
