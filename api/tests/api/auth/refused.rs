//! Refused credentials: one event a minute, by reason and network, and nothing of whoever sent them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use chrono::TimeDelta;
use serde_json::Value;
use testkit::World;

const TRUSTED: (&str, &str) = ("TRUSTED_PROXIES", "127.0.0.0/8");
const MINUTES: &str = "SELECT count(*)::text FROM auth_failures";

/// The start of a minute, so that what follows is in one.
fn begin_minute(world: &World) -> Result<()> {
    let next = world.env.clock.now() + TimeDelta::minutes(1);
    // A second of it has passed: the clock is set to the millisecond, and a call may be quicker than that.
    let start = next.timestamp().div_euclid(60) * 60 + 1;
    world.env.clock.set(chrono::DateTime::from_timestamp(start, 0).context("a time")?);
    Ok(())
}

/// Failures by reason and network, of all events.
async fn failures(world: &World) -> Result<BTreeMap<(String, String), u64>> {
    let rows: Vec<Value> =
        sqlx::query_scalar("SELECT counts::jsonb FROM auth_failures").fetch_all(world.env.pool()).await?;
    let mut sums = BTreeMap::new();
    for count in rows.iter().flat_map(|row| row.as_array().into_iter().flatten()) {
        let text = |name: &str| Ok::<_, anyhow::Error>(count[name].as_str().context("a text")?.to_owned());
        *sums.entry((text("reason")?, text("network")?)).or_default() +=
            count["failures"].as_u64().context("n")?;
    }
    Ok(sums)
}

#[tokio::test]
async fn two_hundred_bad_tokens_from_three_networks_are_one_event_of_three_entries() -> Result<()> {
    let world = World::with(&[TRUSTED]).await?;
    begin_minute(&world)?;
    let client = world.anonymous()?.with_token("a.bad.token-of-nobody");
    for number in 0..200 {
        let host = number / 3;
        let address = match number % 3 {
            0 => format!("198.51.100.{host}"),
            1 => format!("203.0.113.{host}"),
            _ => format!("2001:db8:7:{host:x}::1"),
        };
        let answer = client.get("/api/usage/stats").header("x-forwarded-for", &address).send().await?;
        assert_eq!(answer.status, 401);
    }
    // Without a credential nobody has failed.
    world.anonymous()?.get("/api/usage/stats").send().await?.expect(401)?;
    assert_eq!(world.text(MINUTES).await?, "0", "the minute is not over");
    world.env.clock.set(world.env.clock.now() + TimeDelta::minutes(1));
    testkit::wait_until(std::time::Duration::from_secs(30), || async {
        world.text(MINUTES).await.is_ok_and(|minutes| minutes != "0")
    })
    .await;
    let told = "SELECT string_agg(concat(window_start, ' ', counts, ' ', other), E'\\n') FROM auth_failures";
    assert_eq!(world.text(MINUTES).await?, "1", "{}", world.text(told).await?);
    let found = failures(&world).await?;
    let found: Vec<_> = found.iter().map(|((_, network), n)| (network.as_str(), *n)).collect();
    assert_eq!(found, [("198.51.100.0/24", 67), ("2001:db8:7::/48", 66), ("203.0.113.0/24", 67)]);
    assert_eq!(world.text("SELECT other::text FROM auth_failures").await?, "0");
    let second = "SELECT to_char(window_start AT TIME ZONE 'UTC', 'SS.US') FROM auth_failures";
    assert_eq!(world.text(second).await?, "00.000000");
    Ok(())
}

#[tokio::test]
async fn what_a_shutdown_finds_is_told_and_sign_in_may_tell_too() -> Result<()> {
    let world = World::with(&[TRUSTED]).await?;
    world.anonymous()?.with_token("ul_dev_nonsense").get("/api/usage/stats").send().await?.expect(401)?;
    world.api.handle.state.auth.refused().note("password", "192.0.2.9".parse()?);
    let world = world.restart_api(&[TRUSTED]).await?;
    world.wait_until_projected().await?;
    let found = failures(&world).await?;
    let found: Vec<_> =
        found.iter().map(|((reason, network), n)| format!("{reason} {network} {n}")).collect();
    assert_eq!(found, ["malformed 127.0.0.0/24 1", "password 192.0.2.0/24 1"]);
    Ok(())
}
