//! The CloudEvents SDKs for Python and JavaScript, unchanged.

use std::time::Duration;

use anyhow::Result;
use testkit::{Role, World};
use tokio::process::Command;

use crate::programs;

const BOUND: Duration = Duration::from_mins(1);

/// Every request was taken: the lines that tell of one, which were as many as expected.
fn all_taken(said: &str, requests: usize) -> Result<()> {
    let taken = said.lines().filter(|line| line.trim_end().ends_with(" 202")).count();
    anyhow::ensure!(said.lines().count() == requests && taken == requests, "{taken} of {requests}: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_for_python_reports_in_both_modes() -> Result<()> {
    let world = World::start().await?;
    let (url, token) = (format!("{}/api/usage/events", world.api.url), world.env.token("svc", Role::Service));
    let script = programs::folder().join("sdk.py");
    let mut python = programs::python(&[script.as_os_str(), url.as_ref(), token.as_ref()]).await?;
    all_taken(&programs::run(&mut python, BOUND).await?, 8)?;
    assert_eq!(world.summary("cust-1").await?, (4, 4));
    assert_eq!(world.summary("Größe 1").await?, (4, 4));
    let odd = "SELECT count(*) FROM users WHERE external_id NOT IN ('svc', 'cust-1', 'Größe 1')";
    assert_eq!(sqlx::query_scalar::<_, i64>(odd).fetch_one(world.env.pool()).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_for_javascript_reports_in_both_modes() -> Result<()> {
    let world = World::start().await?;
    let (url, token) = (format!("{}/api/usage/events", world.api.url), world.env.token("svc", Role::Service));
    let modules = programs::installed().await?.join("node");
    let mut node = Command::new("node");
    node.arg(programs::folder().join("sdk.mjs")).args([url, token]).arg(modules);
    all_taken(&programs::run(&mut node, BOUND).await?, 7)?;
    assert_eq!(world.summary("cust-1").await?, (8, 8));
    Ok(())
}
