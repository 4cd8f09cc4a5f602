//! A process that stands still is relieved: by a standby, by another api. What it still tries when it goes on fails.

use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::json;
use sqlx::{Connection as _, PgPool};
use testkit::{Frozen, Role, wait_until};
use tokio::task::{JoinHandle, JoinSet};

use super::{API, PROJECTOR, RECOVERY, call};
use crate::cluster::{BOUND, Cluster, Settings, Victim};

const USERS: usize = 12;
/// The free plan's limit.
const LIMIT: usize = 50;
/// Calls of each user that are in the log before anything stands still.
const BEFORE: usize = 45;

async fn states(pool: &PgPool) -> Option<String> {
    let states = "SELECT string_agg(state, ' ' ORDER BY state) FROM projector_status
                  WHERE heartbeat_at > clock_timestamp() - interval '3 seconds'";
    sqlx::query_scalar(states).fetch_one(pool).await.ok().flatten()
}

/// So many calls of a user at once; how many were admitted.
async fn admitted(settings: &Settings, user: &str, calls: usize) -> Result<usize> {
    let mut all = JoinSet::new();
    for _ in 0..calls {
        let (settings, user) = (settings.clone(), user.to_owned());
        all.spawn(async move { call(&settings, &user).await });
    }
    let statuses = all.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(statuses.into_iter().filter(|status| *status == 204).count())
}

/// The active worker stands still in the middle of a transaction, and holds the checkpoint's row in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stands_still_is_relieved_and_its_late_commit_fails() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let pool = cluster.pool().await?;
    wait_until(BOUND, || async { states(&pool).await.as_deref() == Some("running") }).await;
    let first = cluster.pid(Victim::Worker)?;
    let mut standby = cluster.another("worker", &[])?;
    wait_until(BOUND, || async { states(&pool).await.as_deref() == Some("running standby") }).await;

    let mut blocker = sqlx::PgConnection::connect(cluster.database_url()).await?;
    let mut blocking = blocker.begin().await?;
    sqlx::query("LOCK TABLE api_usage IN SHARE MODE").execute(&mut *blocking).await?;
    anyhow::ensure!(call(&cluster.settings, "relieved").await? == 204, "not admitted");
    let session =
        "SELECT wait_event_type FROM pg_stat_activity JOIN lock_holders ON pid = backend_pid WHERE lock = $1";
    wait_until(BOUND, || async {
        let waits = sqlx::query_scalar::<_, Option<String>>(session).bind(PROJECTOR).fetch_one(&pool).await;
        waits.is_ok_and(|event| event.as_deref() == Some("Lock"))
    })
    .await;
    let frozen = Frozen::one(first).await?;
    let began = Instant::now();
    blocking.rollback().await?;
    cluster.projects(RECOVERY).await.context("nobody has taken over")?;
    eprintln!("relieved after {:?}", began.elapsed());
    // The one that stands still says nothing.
    wait_until(RECOVERY, || async { states(&pool).await.as_deref() == Some("running") }).await;

    drop(frozen);
    wait_until(RECOVERY, || async { states(&pool).await.as_deref() == Some("running standby") }).await;
    anyhow::ensure!(call(&cluster.settings, "relieved").await? == 204, "not admitted");
    cluster.projects(RECOVERY).await?;
    let counted: i64 =
        sqlx::query_scalar("SELECT total_calls FROM monthly_usage_summary").fetch_one(&pool).await?;
    assert_eq!(counted, 2);
    assert_eq!(standby.ended()?, None);
    cluster.stop_api().await?;
    cluster.projected().await?;
    cluster.command(&["verify"]).await?.expect_success()?;
    Ok(())
}

/// Calls of each user that wait in the first api for a log that stands still, until every one of them is admitted.
async fn wait_in(settings: &Settings, users: &[String]) -> Result<Vec<(usize, JoinHandle<Result<u16>>)>> {
    let waiting = (0..users.len() * (LIMIT - BEFORE))
        .map(|n| {
            let (settings, user) = (settings.clone(), users[n % users.len()].clone());
            (n % users.len(), tokio::spawn(async move { call(&settings, &user).await }))
        })
        .collect();
    for user in users {
        let client = settings.client(user, Role::User)?;
        wait_until(BOUND, || async {
            let check = client.post("/api/usage/check").json(&json!({"endpoint": "/api/x"})).send().await;
            check.and_then(|answer| answer.json()).is_ok_and(|body| body["used"] == LIMIT)
        })
        .await;
    }
    Ok(waiting)
}

/// The second api takes over from one that stands still, with admitted calls in its memory: one frame of them is on its
/// way and will be in the log; the others are not, and must never come into it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_apis_never_admit_the_same_units() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let users: Vec<String> = (0..USERS).map(|n| format!("shared-{n}")).collect();
    for user in &users {
        assert_eq!(admitted(&cluster.settings, user, BEFORE).await?, BEFORE);
    }
    let log = Frozen::one(cluster.pid(Victim::Nats)?).await?;
    let waiting = wait_in(&cluster.settings, &users).await?;
    let first = Frozen::one(cluster.pid(Victim::Api)?).await?;
    drop(log);

    let elsewhere = cluster.settings.elsewhere()?;
    let mut second = cluster.another("api", &[("LISTEN_ADDR", &elsewhere.address)])?;
    wait_until(BOUND, || async { elsewhere.ready().await == Some(200) }).await;
    assert_eq!(second.ended()?, None);
    let mut shared = Vec::new();
    for user in &users {
        shared.push(admitted(&elsewhere, user, LIMIT - BEFORE + 3).await?);
    }
    drop(first);
    for (user, answer) in waiting {
        match tokio::time::timeout(BOUND, answer).await?? {
            Ok(204) => shared[user] += 1,
            Ok(503) => {}
            other => anyhow::bail!("a call that waited was answered {other:?}"),
        }
    }
    assert_eq!(shared, [LIMIT - BEFORE; USERS], "admitted by both together");

    // The first one says that it does not decide, until the second one has ended.
    assert_eq!(cluster.ready().await, Some(503));
    second.signal(Signal::SIGTERM)?;
    anyhow::ensure!(second.wait().await?.success(), "the second api did not end well");
    wait_until(RECOVERY, || async { cluster.ready().await == Some(200) }).await;
    for user in &users {
        assert_eq!(call(&cluster.settings, user).await?, 429, "{user} has used up all");
    }
    cluster.stop_api().await?;
    cluster.projected().await?;
    let totals: Vec<i64> = sqlx::query_scalar("SELECT total_calls FROM monthly_usage_summary")
        .fetch_all(&cluster.pool().await?)
        .await?;
    assert_eq!(totals, [i64::try_from(LIMIT)?; USERS]);
    cluster.command(&["verify"]).await?.expect_success()?;
    Ok(())
}

/// The lock's session is ended while a second api waits for the lock: for a moment the first one does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_lost_without_a_word_is_decided_under_by_one() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let users: Vec<String> = (0..USERS).map(|n| format!("shared-{n}")).collect();
    for user in &users {
        assert_eq!(admitted(&cluster.settings, user, BEFORE).await?, BEFORE);
    }
    let elsewhere = cluster.settings.elsewhere()?;
    let mut second = cluster.another("api", &[("LISTEN_ADDR", &elsewhere.address)])?;
    let pool = cluster.pool().await?;
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query ~ '^SELECT (pg_try_adv|holder, )')";
    wait_until(BOUND, || async {
        sqlx::query_scalar(waits).fetch_one(&pool).await.is_ok_and(|waits: bool| waits)
    })
    .await;
    let end = "SELECT pg_terminate_backend(backend_pid) FROM lock_holders WHERE lock = $1";
    sqlx::query(end).bind(API).execute(&pool).await?;
    // Both are asked for one call of each user after the other, until all is used up.
    let mut by_both = 0;
    let began = Instant::now();
    while by_both < USERS * (LIMIT - BEFORE) {
        anyhow::ensure!(began.elapsed() < BOUND, "{by_both} calls admitted");
        anyhow::ensure!(second.ended()?.is_none() || cluster.ready().await.is_some(), "nobody decides");
        for user in &users {
            for settings in [&cluster.settings, &elsewhere] {
                by_both += usize::from(call(settings, user).await.is_ok_and(|status| status == 204));
            }
        }
    }
    for user in &users {
        for settings in [&cluster.settings, &elsewhere] {
            assert_ne!(call(settings, user).await.unwrap_or(503), 204, "{user} has used up all");
        }
    }
    cluster.projected().await?;
    let most: i64 =
        sqlx::query_scalar("SELECT max(total_calls) FROM monthly_usage_summary").fetch_one(&pool).await?;
    assert_eq!(usize::try_from(most)?, LIMIT);
    cluster.stop_api().await
}
