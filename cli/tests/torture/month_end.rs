//! `dev --now`: a month ends while calls are made.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use chrono::{DateTime, TimeDelta, Utc};
use ledger::Clock;
use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::{Answer, Client, wait_until};

use crate::{
    cluster::BOUND,
    program::{DataDir, Program},
};

/// Time before the month's end at which `dev` is started: a busy machine needs longer until it is ready.
const MARGINS_S: [i64; 3] = [15, 60, 240];

#[tokio::test]
async fn calls_before_and_after_midnight_count_in_their_months_and_the_month_is_closed() -> Result<()> {
    let (dir, midnight) = (DataDir::new()?, "2026-12-01T00:00:00Z".parse()?);
    let (mut dev, environment, clock) = start_before(&dir, midnight).await?;
    let client = Client::new(&environment["API_URL"])?.with_token(&environment["ADMIN_TOKEN"]);
    // All analyses that November has, and one too many.
    let first = call(&client).await?.expect(204)?;
    assert_eq!(first.header("x-usage-remaining"), Some("9"));
    for _ in 1..10 {
        call(&client).await?.expect(204)?;
    }
    let refused = call(&client).await?.expect(429)?;
    assert!(clock.now() < midnight, "too slow: it is {} already", clock.now());
    assert_eq!(refused.json()?["resets_at"], "2026-12-01T00:00:00Z");

    let left = (midnight - clock.now()).to_std().unwrap_or_default();
    let next = || async { call(&client).await.is_ok_and(|answer| answer.status == 204) };
    wait_until(left + BOUND, next).await;
    assert!(clock.now() >= midnight, "admitted in November");
    let second = call(&client).await?.expect(204)?;
    assert_eq!(second.header("x-usage-remaining"), Some("8"));

    wait_until(BOUND, || async { analyses(&client, "2026-12").await == Some(2) }).await;
    assert_eq!(analyses(&client, "2026-11").await, Some(10));
    let statement =
        || async { client.get("/api/usage/statements/2026-11").send().await?.expect(200)?.json() };
    wait_until(BOUND, || async { statement().await.is_ok() }).await;
    let statement: Value = statement().await?;
    assert_eq!((&statement["month"], &statement["plan_name"]), (&"2026-11".into(), &"free".into()));
    assert_eq!((&statement["total_calls"], &statement["analyze_calls"]), (&10.into(), &10.into()));
    let issued_at: DateTime<Utc> = statement["issued_at"].as_str().context("issued_at")?.parse()?;
    assert!(issued_at >= midnight + TimeDelta::seconds(2), "closed before CLOSE_GRACE was over");
    client.get("/api/usage/statements/2026-12").send().await?.expect(404)?;
    dev.signal(Signal::SIGTERM)?;
    assert_eq!(dev.wait().await?.code(), Some(0));
    Ok(())
}

/// `dev`, ready a few seconds or more before the instant, and its clock.
async fn start_before(
    dir: &DataDir,
    instant: DateTime<Utc>,
) -> Result<(Program, BTreeMap<String, String>, Clock)> {
    for margin_s in MARGINS_S {
        let now = (instant - TimeDelta::seconds(margin_s)).to_rfc3339();
        let arguments = ["dev", "--now", &now, "--data-dir", dir.text()];
        let mut dev = Program::start(dir, &arguments, &[("CLOSE_GRACE", "2s")])?;
        let environment = dir.dev_env(&mut dev).await?;
        let offset_ms = environment["CLOCK_OFFSET_MS"].parse()?;
        let clock = Clock::with_offset_ms(offset_ms);
        if clock.now() + TimeDelta::seconds(4) < instant {
            return Ok((dev, environment, clock));
        }
        dev.signal(Signal::SIGTERM)?;
        dev.wait().await?;
    }
    anyhow::bail!("dev was ready too late, whatever the margin of {MARGINS_S:?} s")
}

async fn call(client: &Client) -> Result<Answer> {
    let request = client.get("/api/forward-auth").header("X-Forwarded-Uri", "/api/analyze");
    request.header("X-Forwarded-Method", "GET").send().await
}

async fn analyses(client: &Client, month: &str) -> Option<u64> {
    let answer = client.get(&format!("/api/usage/stats?month={month}")).send().await.ok()?;
    answer.json().ok()?.pointer("/analyze/used")?.as_u64()
}
