//! Until when a key is taken, from where, and how soon its end is known everywhere.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use api::accounts::{By, Registry};
use api::facts::{Positions, Watermark, Writer};
use chrono::TimeDelta;
use credentials::{ApiKey, Environment};
use events::{Actor, ActorKind};
use ledger::KeyId;
use serde_json::json;
use testkit::{Client, PATIENCE, Role, World, wait_until};

use super::key;
use crate::answers::assert_problem;

async fn status(client: &Client) -> u16 {
    let answer = client.get("/api/usage/stats").send().await;
    answer.map_or(0, |answer| answer.status.as_u16())
}

#[tokio::test]
async fn a_key_is_taken_until_its_end_and_from_its_networks() -> Result<()> {
    let world = World::without_worker(&[("TRUSTED_PROXIES", "127.0.0.0/8")]).await?;
    let end = world.env.clock.now() + TimeDelta::hours(1);
    let ends = key(&world, "ada", &["read"], json!({"expires_at": end})).await?;
    let bound =
        key(&world, "ada", &["read"], json!({"networks": ["203.0.113.0/24", "2001:db8::/48"]})).await?;
    assert_eq!(status(&ends.client).await, 200);
    for (from, expected) in [
        ("203.0.113.7", 200),
        ("203.0.114.7", 401),
        ("2001:db8::1", 200),
        ("2001:db8:1::1", 401),
        ("::ffff:203.0.113.7", 200),
        ("", 401),
    ] {
        let asked = bound.client.get("/api/usage/stats").header("x-forwarded-for", from).send().await?;
        assert_eq!(asked.status, expected, "{from}: {}", asked.text());
    }
    world.env.clock.set(end + TimeDelta::milliseconds(1));
    let answer = ends.client.get("/api/usage/stats").send().await?;
    assert_problem(&answer, 401, "unauthorized");
    Ok(())
}

#[tokio::test]
async fn two_secrets_of_a_key_are_taken_while_one_is_exchanged() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let old = key(&world, "ada", &["read"], json!({})).await?;
    let boss = world.client("boss", Role::Admin)?;
    let rotate = format!("/api/keys/{}/rotate?user_id=ada", old.id);
    let asked = |seconds: u64| boss.post(&rotate).json(&json!({"overlap_seconds": seconds})).send();
    assert_problem(&asked(604_801).await?, 422, "validation_failed");
    let made = asked(3600).await?.expect(200)?.json()?;
    assert_eq!(made["id"], old.id);
    assert!(made["earlier_end_at"].is_string(), "{made}");
    let new = world.anonymous()?.with_token(made["secret"].as_str().context("a secret")?);
    assert_eq!((status(&old.client).await, status(&new).await), (200, 200));
    world.env.clock.set(world.env.clock.now() + TimeDelta::seconds(3601));
    assert_eq!((status(&old.client).await, status(&new).await), (401, 200));
    let made = asked(0).await?.expect(200)?.json()?;
    assert_eq!(status(&new).await, 401);
    let newest = world.anonymous()?.with_token(made["secret"].as_str().context("a secret")?);
    assert_eq!(status(&newest).await, 200);
    assert!(made["earlier_end_at"].is_null(), "{made}");
    Ok(())
}

/// Waits until the key is refused; answers how long that took.
async fn refused(client: &Client) -> Duration {
    let since = Instant::now();
    wait_until(PATIENCE, || async { status(client).await != 200 }).await;
    since.elapsed()
}

/// Time within which every instance knows, and what a busy machine takes.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn what_another_instance_revokes_is_refused_here_within_a_second() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let made = key(&world, "ada", &["read"], json!({})).await?;
    assert_eq!(status(&made.client).await, 200);
    // Another process has the same tables and log, and tells this one nothing itself.
    let (clock, ids) = (world.env.clock.clone(), world.env.ids.clone());
    let positions = Positions::of(world.env.stream_name(), clock.now());
    let publisher = world.api.handle.publisher.clone();
    let writer = Writer::new(publisher, Watermark::default(), positions, clock, ids);
    let elsewhere = Registry::new(world.env.pool().clone(), writer, Environment::default());
    let by = By { actor: Actor::new(ActorKind::Operator, "test"), personal: None };
    let (owner, id) = (world.user_id("ada").await?, KeyId::new(made.id.parse()?));
    elsewhere.revoke(owner, id, &by).await?.context("it was revoked before")?;
    assert!(refused(&made.client).await < SOON);
    Ok(())
}

#[tokio::test]
async fn a_change_that_nobody_announces_is_seen_all_the_same() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let made = key(&world, "ada", &["read"], json!({})).await?;
    assert_eq!(status(&made.client).await, 200);
    let mut tx = world.env.pool().begin().await?;
    sqlx::query("UPDATE public.api_keys SET revoked_at = now()").execute(&mut *tx).await?;
    sqlx::query("UPDATE public.credential_changes SET number = number + 1").execute(&mut *tx).await?;
    tx.commit().await?;
    assert!(refused(&made.client).await < SOON);
    Ok(())
}

#[tokio::test]
async fn a_suspension_and_an_erasure_end_all_keys_of_their_user() -> Result<()> {
    let world = World::start().await?;
    let made = key(&world, "ada", &["read"], json!({})).await?;
    let service = world.service()?;
    let put = |status: &str| service.put("/api/users/ada").json(&json!({"status": status})).send();
    put("suspended").await?.expect(200)?;
    assert_eq!(status(&made.client).await, 403);
    put("active").await?.expect(200)?;
    assert_eq!(status(&made.client).await, 200);
    world.user("ada")?.post("/api/users/me/erase").send().await?;
    assert!(refused(&made.client).await < SOON);
    assert_eq!(status(&made.client).await, 401);
    let left: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM public.api_keys) + (SELECT count(*) FROM public.api_key_secrets)",
    )
    .fetch_one(world.env.pool())
    .await?;
    assert_eq!(left, 0);
    Ok(())
}

#[tokio::test]
async fn keys_that_cannot_be_looked_at_are_not_taken_on_trust() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let made = key(&world, "ada", &["read"], json!({})).await?;
    assert_eq!(status(&made.client).await, 200);
    sqlx::query("ALTER TABLE public.credential_changes RENAME TO away").execute(world.env.pool()).await?;
    let since = Instant::now();
    wait_until(PATIENCE, || async { status(&made.client).await == 503 }).await;
    assert!(since.elapsed() > Duration::from_secs(8), "for a while what is remembered holds");
    let answer = made.client.get("/api/usage/stats").send().await?;
    assert_problem(&answer, 503, "unavailable");
    assert!(answer.header("retry-after").is_some());
    // Others do not need them.
    assert_eq!(status(&world.user("ada")?).await, 200);
    sqlx::query("ALTER TABLE public.away RENAME TO credential_changes").execute(world.env.pool()).await?;
    wait_until(PATIENCE, || async { status(&made.client).await == 200 }).await;
    Ok(())
}

#[tokio::test]
async fn keys_that_are_made_up_are_bounded_and_lock_nobody_out() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let made = key(&world, "ada", &["read"], json!({})).await?;
    assert_eq!(status(&made.client).await, 200);
    // 62 in a row are more than two minutes have.
    let (mut refused, mut slowed) = (0, 0);
    for number in 0..62_u8 {
        let fill = |bytes: &mut [u8]| {
            bytes.fill(number);
            Ok::<_, std::convert::Infallible>(())
        };
        let guess = ApiKey::make(&Environment::default(), fill)?;
        match status(&world.anonymous()?.with_token(guess.expose())).await {
            401 => refused += 1,
            429 => slowed += 1,
            other => anyhow::bail!("{other}"),
        }
    }
    assert!((30..=60).contains(&refused) && slowed > 0, "{refused} refused, {slowed} slowed");
    // The true owner, though at the same address, is known.
    assert_eq!(status(&made.client).await, 200);
    // Another environment's, and one that is mistyped, are none at all.
    let prod = ApiKey::make(&"prod".parse()?, |bytes: &mut [u8]| {
        bytes.fill(7);
        Ok::<_, std::convert::Infallible>(())
    })?;
    let mistyped = made.secret.replace("ul_dev_", "ul_dev_a");
    for text in [prod.expose(), &mistyped[..43], "ul_", "ul_dev_"] {
        assert!([401, 429].contains(&status(&world.anonymous()?.with_token(text)).await), "{text}");
    }
    Ok(())
}
