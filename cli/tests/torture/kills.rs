//! SIGKILL at random moments.

use std::{env, time::Duration};

use anyhow::{Context as _, Result};
use ledger::{Clock, IdSource};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use sqlx::PgPool;

use crate::{
    book::Fate,
    cluster::{Cluster, Settings, Victim},
    load::Load,
};

/// Each kills all four once; `make torture` does more (`TORTURE_ROUNDS`).
const ROUNDS: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_any_moment_lose_nothing_answered_and_double_nothing() -> Result<()> {
    let rounds = number("TORTURE_ROUNDS")?.unwrap_or(ROUNDS);
    let random = || IdSource::new(Clock::system()).random_id().as_u64_pair().1;
    let seed = number("TORTURE_SEED")?.unwrap_or_else(random);
    // Shown when the test fails: the same kills come again with it, though not at the same instructions.
    eprintln!("TORTURE_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut cluster = Cluster::start().await?;
    let mut load = Load::start(Settings::clone(&cluster.settings), seed);
    load.progresses(&mut cluster).await?;
    if let Err(error) = kill_all(&mut cluster, &mut load, &mut rng, rounds).await {
        return Err(error.context(cluster.state().await));
    }
    let book = load.stop().await?;
    cluster.stop_api().await?;
    cluster.projected().await?;

    let (recorded, refused) = (book.count(Fate::Recorded), book.count(Fate::Refused));
    let unknown = book.count(Fate::Unknown);
    eprintln!("{recorded} calls recorded, {refused} refused, {unknown} of unknown fate");
    assert!(recorded > 100 && refused > 10, "too little happened to prove anything");
    let pool = cluster.pool().await?;
    let disagreements = book.disagreements(&pool).await?;
    assert!(disagreements.is_empty(), "{} wrong: {:#?}", disagreements.len(), &disagreements);
    assert_eq!(over_the_limit(&pool).await?, Vec::<String>::new());
    cluster.command(&["verify"]).await?.expect_success().context("verify")?;
    cluster.command(&["rebuild", "--dry-run"]).await?.expect_success().context("rebuild --dry-run")?;
    Ok(())
}

/// Kills each in turn, so many times, and looks whether calls go on.
async fn kill_all(cluster: &mut Cluster, load: &mut Load, rng: &mut SmallRng, rounds: u64) -> Result<()> {
    for round in 1..=rounds {
        let mut victims = Victim::ALL;
        victims.shuffle(rng);
        for victim in victims {
            strike(cluster, rng, victim).await.with_context(|| format!("round {round}, {victim}"))?;
            // At times the next one dies while this one is coming back.
            if rng.random_bool(0.7) {
                load.progresses(cluster).await.with_context(|| format!("round {round}, after {victim}"))?;
            }
        }
        forget(cluster, rng).await.with_context(|| format!("round {round}, api without a worker"))?;
        load.progresses(cluster).await.with_context(|| format!("round {round}, after both"))?;
        eprintln!("round {round} of {rounds}");
    }
    load.progresses(cluster).await
}

/// Kills at a random moment, leaves it dead for a random while, and starts it again. The two pauses are what is tried
/// here: nothing is waited for in them.
async fn strike(cluster: &mut Cluster, rng: &mut SmallRng, victim: Victim) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
    cluster.supervise()?;
    cluster.kill(victim).await?;
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
    cluster.revive(victim).await
}

/// The api dies with calls in its memory alone that no worker has counted: the next one must not admit them again.
async fn forget(cluster: &mut Cluster, rng: &mut SmallRng) -> Result<()> {
    let mut pause = || tokio::time::sleep(Duration::from_millis(rng.random_range(100..400)));
    cluster.supervise()?;
    cluster.kill(Victim::Worker).await?;
    pause().await;
    cluster.supervise()?;
    cluster.kill(Victim::Api).await?;
    cluster.revive(Victim::Api).await?;
    pause().await;
    cluster.revive(Victim::Worker).await
}

/// Users of the free plan that were admitted more than it holds.
pub(crate) async fn over_the_limit(pool: &PgPool) -> Result<Vec<String>> {
    let users = sqlx::query_scalar(
        "SELECT concat_ws(' ', external_id, total_calls, analyze_calls)
         FROM monthly_usage_summary JOIN public.users USING (user_id)
         WHERE external_id LIKE 'caller-%' AND (total_calls > 50 OR analyze_calls > 10)",
    );
    Ok(users.fetch_all(pool).await?)
}

fn number(variable: &str) -> Result<Option<u64>> {
    match env::var(variable) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{variable} must be a number"))?)),
        Err(_) => Ok(None),
    }
}
