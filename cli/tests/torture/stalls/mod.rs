//! Processes that stand still and go on, and servers whose network falls silent: everything goes on by itself, and what
//! was decided, recorded and counted stays right.

mod network;
mod relief;

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use testkit::{Frozen, PrivateServers, Role, wait_until};

use crate::{
    book::Fate,
    cluster::{Cluster, Settings, Victim},
    load::Load,
};
use network::Network;

/// Everything is back so long after the end of a stall.
const RECOVERY: Duration = Duration::from_secs(10);
/// Seconds that each stall lasts; `make torture` has longer ones, too (`TORTURE_FREEZES`).
const FREEZES: &str = "4";
/// The keys of the locks of the projector and of the api.
const PROJECTOR: i32 = 0x1_0000;
const API: i32 = 0x2_0000;

/// Thing that stalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stall {
    Process(Victim),
    /// The session of a lock, in the server alone.
    Session(i32),
    DatabaseNetwork,
    LogNetwork,
}

impl Stall {
    const ALL: [Self; 8] = [
        Self::Process(Victim::Postgres),
        Self::Process(Victim::Nats),
        Self::Process(Victim::Worker),
        Self::Process(Victim::Api),
        Self::Session(PROJECTOR),
        Self::Session(API),
        Self::DatabaseNetwork,
        Self::LogNetwork,
    ];

    /// Whether the api goes on answering, and what it answers is 503: neither does it find out by itself what is wrong
    /// with it, nor need it be told.
    fn is_seen_by_the_api(self) -> bool {
        !matches!(self, Self::Process(Victim::Worker | Victim::Api) | Self::Session(PROJECTOR))
    }
}

/// Lets go of what stalls.
enum Held<'a> {
    Frozen(#[expect(dead_code, reason = "goes on when it is dropped")] Frozen),
    Silent(&'a Network),
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Self::Silent(network) = self {
            network.silence(false);
        }
    }
}

/// A cluster that reaches its servers by networks of the test's.
struct Stage {
    cluster: Cluster,
    database: Network,
    log: Network,
}

impl Stage {
    async fn start() -> Result<Self> {
        let servers = PrivateServers::start().await?;
        let database = Network::to(&servers.postgres.url("postgres")).await?;
        let log = Network::to(&servers.nats.url()).await?;
        let cluster = Cluster::start_by(servers, |settings| {
            settings.change("DATABASE_URL", |url| database.via(url))?;
            settings.change("NATS_URL", |url| log.via(url))
        })
        .await?;
        Ok(Self { cluster, database, log })
    }

    async fn hold(&self, stall: Stall) -> Result<Held<'_>> {
        Ok(match stall {
            Stall::Process(Victim::Postgres) => {
                Held::Frozen(Frozen::family(self.cluster.pid(Victim::Postgres)?).await?)
            }
            Stall::Process(victim) => Held::Frozen(Frozen::one(self.cluster.pid(victim)?).await?),
            Stall::Session(lock) => {
                let pool = self.cluster.pool().await?;
                Held::Frozen(Frozen::session(&pool, lock).await?)
            }
            Stall::DatabaseNetwork => {
                self.database.silence(true);
                Held::Silent(&self.database)
            }
            Stall::LogNetwork => {
                self.log.silence(true);
                Held::Silent(&self.log)
            }
        })
    }

    /// Stalls it for so long, and longer until `/readyz` says that calls are refused where they are.
    async fn stall(&self, stall: Stall, lasts: Duration) -> Result<()> {
        let began = Instant::now();
        let held = self.hold(stall).await?;
        if stall.is_seen_by_the_api() {
            wait_until(lasts + RECOVERY, || async { self.cluster.ready().await == Some(503) }).await;
        }
        // The stall itself is what is tried here: nothing is waited for.
        tokio::time::sleep(lasts.saturating_sub(began.elapsed())).await;
        drop(held);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_stands_still_everything_goes_on_by_itself() -> Result<()> {
    let mut stage = Stage::start().await?;
    let mut load = Load::start(Settings::clone(&stage.cluster.settings), 9);
    load.progresses(&mut stage.cluster).await?;
    for lasts in freezes()? {
        for stall in Stall::ALL {
            if let Err(error) = survive(&mut stage, &mut load, stall, lasts).await {
                let seen = stage.cluster.state().await;
                return Err(error.context(format!("{stall:?} for {lasts:?}: {seen}")));
            }
        }
    }
    let book = load.stop().await?;
    let mut cluster = stage.cluster;
    cluster.stop_api().await?;
    cluster.projected().await?;

    assert!(book.count(Fate::Recorded) > 100, "too little happened to prove anything");
    let pool = cluster.pool().await?;
    let disagreements = book.disagreements(&pool).await?;
    assert!(disagreements.is_empty(), "{} wrong: {:#?}", disagreements.len(), &disagreements);
    assert_eq!(crate::kills::over_the_limit(&pool).await?, Vec::<String>::new());
    cluster.command(&["verify"]).await?.expect_success().context("verify")?;
    Ok(())
}

async fn survive(stage: &mut Stage, load: &mut Load, stall: Stall, lasts: Duration) -> Result<()> {
    stage.stall(stall, lasts).await?;
    let ended = Instant::now();
    load.progresses(&mut stage.cluster).await?;
    wait_until(RECOVERY, || async { stage.cluster.ready().await == Some(200) }).await;
    // What was answered is also counted again.
    stage.cluster.projects(RECOVERY).await?;
    let after = ended.elapsed();
    eprintln!("{stall:?} for {lasts:?}: back after {after:?}");
    anyhow::ensure!(after < RECOVERY, "back after {after:?}");
    Ok(())
}

fn freezes() -> Result<Vec<Duration>> {
    let text = env::var("TORTURE_FREEZES").unwrap_or_else(|_| FREEZES.to_owned());
    let seconds = text.split(',').map(|text| Ok(Duration::from_secs(text.trim().parse()?)));
    seconds.collect::<Result<_>>().context("TORTURE_FREEZES: seconds with commas")
}

/// Calls forward-auth once; the status of the answer.
async fn call(settings: &Settings, user: &str) -> Result<u16> {
    let client = settings.client(user, Role::User)?;
    let request = client.get("/api/forward-auth").header("X-Forwarded-Uri", "/api/x");
    Ok(request.header("X-Forwarded-Method", "GET").send().await?.status.as_u16())
}
