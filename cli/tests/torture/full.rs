//! The log has no room left: nothing is answered that was not recorded, and it goes on when there is room again and
//! nats-server was started anew. (2.15.1 writes no more to a stream after a write that failed, and looks at its limit
//! and at the disk's size at its start only.)

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use infra::{NatsConfig, NatsServer, Postgres, PostgresConfig};
use serde_json::{Value, json};
use testkit::{Answer, Client, PrivateServers, Role, wait_until};

use crate::{
    book::{Book, Call, Fate},
    cluster::{BOUND, Cluster, Victim},
    program::DataDir,
};

const BATCH: u64 = 100;
/// Many batches more than what either limit below holds.
const BATCHES: u64 = 500;
/// Time that a client waits for an answer while there is room.
const PATIENCE: Duration = Duration::from_secs(8);
/// Before a batch that has to wait is reported again.
const AFTER_REFUSAL: Duration = Duration::from_millis(200);

/// A server that was told to keep 3 MB, whatever the disk holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_servers_store_limit_is_reached_writes_wait_for_room_and_a_restart() -> Result<()> {
    let dir = DataDir::new()?;
    let mut config = NatsConfig::new(dir.path().join("nats"));
    let roomy = config.conf.clone().into_owned();
    config.conf = roomy.replace("strict: true", "strict: true\n  max_file_store: 3MB").into();
    anyhow::ensure!(config.conf != roomy, "the configuration has changed");
    let cluster = Cluster::start_on(servers(&dir, config).await?).await?;
    fill_and_make_room(cluster, || Ok(std::fs::write(dir.path().join("nats/nats.conf"), &roomy)?)).await
}

/// A file system of 64 MB that something else fills up. Only root may mount one: skipped elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_disk_is_full_writes_wait_for_room_and_a_restart() -> Result<()> {
    let dir = DataDir::new()?;
    let config = NatsConfig::new(dir.path().join("nats"));
    let Some(disk) = SmallDisk::mount(&config.dir.join("nats"))? else {
        eprintln!("skipped: this user may not mount a file system");
        return Ok(());
    };
    let cluster = Cluster::start_on(servers(&dir, config).await?).await?;
    // Only now: the server never takes more than three quarters of what it finds free when it starts.
    let filler = disk.fill(2 * 1024 * 1024)?;
    fill_and_make_room(cluster, || Ok(std::fs::remove_file(&filler)?)).await
}

async fn servers(dir: &DataDir, nats: NatsConfig) -> Result<PrivateServers> {
    let postgres = PostgresConfig::new(dir.path().join("postgres")).for_tests();
    let (postgres, nats) = tokio::try_join!(Postgres::start(postgres), NatsServer::start(nats))?;
    Ok(PrivateServers { postgres, nats })
}

/// Reports calls until there is no room, makes some, and looks for every call that was answered.
async fn fill_and_make_room(mut cluster: Cluster, make_room: impl FnOnce() -> Result<()>) -> Result<()> {
    let service = cluster.settings.client("torturer", Role::Service)?;
    let user = cluster.settings.client("full", Role::User)?;
    let mut book = Book::default();
    let refused = loop {
        let batch = u64::try_from(book.0.len())? / BATCH;
        anyhow::ensure!(batch < BATCHES, "there was room for {batch} batches");
        let Ok(answer) = tokio::time::timeout(PATIENCE, report(&service, batch)).await else {
            // The one that is being written would be answered 503 at the end of its 30 s.
            note(&mut book, batch, Fate::Unknown);
            break batch;
        };
        let answer = answer?;
        if answer.status == 429 {
            // The projection is behind what was reported; nothing of the batch was taken in.
            tokio::time::sleep(AFTER_REFUSAL).await;
            continue;
        }
        answer.expect(202)?;
        note(&mut book, batch, Fate::Recorded);
    };
    assert!(refused > 0, "the first batch had no room already");
    report(&service, refused + 1).await?.expect(503)?;
    note(&mut book, refused + 1, Fate::Unknown);
    for path in ["/api/x/t-full-1", "/api/x/t-full-2", "/api/x/t-full-3"] {
        let answer = forward_auth(&user, path).await?;
        let small_enough = answer.status == 204;
        book.0.insert(path.to_owned(), Call::new(if small_enough { Fate::Recorded } else { Fate::Unknown }));
        if !small_enough {
            let answer = answer.expect(503)?;
            assert!(answer.header("retry-after").is_some(), "503 without Retry-After");
        }
    }
    let ready = Client::new(format!("http://{}", cluster.settings.address))?;
    wait_until(BOUND, || async {
        let answer = ready.get("/readyz").send().await.and_then(|answer| answer.expect(503));
        answer.and_then(|answer| answer.json()).is_ok_and(|report| report["log"]["status"] == "away")
    })
    .await;
    let stats = service.get("/api/usage/stats?user_id=reported").send().await?.expect(200)?.json()?;
    assert!(stats["total"]["used"].as_u64() >= Some(BATCH), "reads go on: {stats}");
    cluster.supervise()?;

    make_room()?;
    cluster.kill(Victim::Nats).await?;
    cluster.revive(Victim::Nats).await?;
    let started = Instant::now();
    wait_until(BOUND, || async { report(&service, refused).await.is_ok_and(|answer| answer.status == 202) })
        .await;
    eprintln!("{refused} batches had room; writes resumed {:?} after there was room", started.elapsed());
    note(&mut book, refused, Fate::Recorded);
    let path = "/api/x/t-full-4";
    wait_until(BOUND, || async { forward_auth(&user, path).await.is_ok_and(|answer| answer.status == 204) })
        .await;
    cluster.supervise()?;
    cluster.stop_api().await?;
    cluster.projected().await?;
    let disagreements = book.disagreements(&cluster.pool().await?).await?;
    // The last call was asked for until it passed; it is not in the book.
    let disagreements: Vec<_> = disagreements.iter().filter(|text| !text.starts_with(path)).collect();
    assert!(disagreements.is_empty(), "{disagreements:#?}");
    cluster.command(&["verify"]).await?.expect_success().context("verify")?;
    Ok(())
}

fn endpoint(batch: u64, n: u64) -> String {
    // Long, so that a small log is full soon.
    format!("/api/{}/t-{batch}-{n}", "x".repeat(700))
}

fn note(book: &mut Book, batch: u64, fate: Fate) {
    book.0.extend((0..BATCH).map(|n| (endpoint(batch, n), Call::new(fate))));
}

async fn report(service: &Client, batch: u64) -> Result<Answer> {
    let event = |n| {
        json!({"id": format!("full-{batch}-{n}"), "subject": "reported",
               "data": {"endpoint": endpoint(batch, n)}})
    };
    let events: Vec<Value> = (0..BATCH).map(event).collect();
    service.post("/api/usage/events").json(&events).send().await
}

async fn forward_auth(user: &Client, path: &str) -> Result<Answer> {
    let request = user.get("/api/forward-auth").header("X-Forwarded-Uri", path);
    request.header("X-Forwarded-Method", "GET").send().await
}

/// A file system in memory; it is taken away when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(at).output();
        Ok(mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned())))
    }

    /// Writes a file that leaves so much free.
    fn fill(&self, left_bytes: u64) -> Result<PathBuf> {
        let disk = nix::sys::statvfs::statvfs(&self.0)?;
        let length = disk.blocks_available() * disk.fragment_size() - left_bytes;
        let path = self.0.join("filler");
        std::fs::write(&path, vec![0; usize::try_from(length)?])?;
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server on it may need another moment to end.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.0.display());
        }
    }
}
