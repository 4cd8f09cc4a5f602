//! What an operator runs beside a worker: exit codes, and what is printed.

#[expect(dead_code, reason = "shared with the tests of dev, which need more of it")]
mod program;

use std::time::Duration;

use anyhow::Result;
use events::{ApiCalled, Body, Event};
use ledger::{Category, UserId};
use nats::{EncodedEvent, FrameHeader, Log, Publisher, PublisherConfig};
use nix::sys::signal::Signal;
use program::{DataDir, Output, Program, output};
use testkit::{Client, Env, wait_until};

const BOUND: Duration = Duration::from_mins(1);
/// Enough that a rebuild of them in a debug build takes some batches.
const FRAMES: i64 = 120;

/// A ledger with a worker, and this program run against it.
struct Operated {
    env: Env,
    dir: DataDir,
    log: Log,
    publisher: Publisher,
    worker: Option<Program>,
}

impl Operated {
    async fn start() -> Result<Self> {
        let (env, dir) = (Env::start().await?, DataDir::new()?);
        let log = env.log().await?;
        let ids = env.ids.clone();
        let publisher = Publisher::start(&log, PublisherConfig::default(), move || ids.random_id()).await?;
        let mut operated = Self { env, dir, log, publisher, worker: None };
        operated.worker = Some(Program::start(&operated.dir, &["worker"], &operated.variables())?);
        Ok(operated)
    }

    fn variables(&self) -> [(&str, &str); 5] {
        [
            ("DATABASE_URL", self.env.database_url()),
            ("NATS_URL", self.env.nats_url()),
            ("NATS_MONITOR_URL", self.env.monitor_url()),
            ("NATS_STREAM", self.env.stream_name()),
            ("ENCRYPTION_KEY", testkit::ENCRYPTION_KEY),
        ]
    }

    async fn run(&self, arguments: &[&str]) -> Result<Output> {
        output(&self.dir, arguments, &self.variables()).await
    }

    /// Runs it and holds it to its exit code; answers what it printed and what it said.
    async fn exits(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let ended = self.run(arguments).await?;
        anyhow::ensure!(
            ended.code == Some(code),
            "{arguments:?} ended with {:?}: {}",
            ended.code,
            ended.errors
        );
        Ok(ended.text + &ended.errors)
    }

    fn call(&self, user: UserId) -> EncodedEvent {
        let body = Body::ApiCalled(ApiCalled::new("/api/x", Category::Other));
        let mut json = Vec::new();
        events::encode(&Event::by_api(self.env.ids.event_id(), user, self.env.clock.now(), body), &mut json);
        EncodedEvent::from(json)
    }

    async fn publish(&self, events: Vec<EncodedEvent>) -> Result<()> {
        self.publisher.publish_all(events).await?;
        let last = i64::try_from(self.log.state().await?.last_seq)?;
        self.projected_to(last).await;
        Ok(())
    }

    async fn projected_to(&self, last: i64) {
        let reached = async || {
            let seq = sqlx::query_scalar::<_, i64>("SELECT seq FROM projection_checkpoint");
            seq.fetch_one(self.env.pool()).await.is_ok_and(|seq| seq >= last)
        };
        wait_until(BOUND, reached).await;
    }

    async fn execute(&self, statement: &'static str) -> Result<()> {
        sqlx::raw_sql(statement).execute(self.env.pool()).await?;
        Ok(())
    }
}

#[tokio::test]
async fn verify_and_a_dry_run_name_what_differs_and_rebuild_mends_it() -> Result<()> {
    let ledger = Operated::start().await?;
    let user = UserId::new(ledger.env.ids.random_id());
    ledger.publish(vec![ledger.call(user), ledger.call(user)]).await?;
    assert!(ledger.exits(0, &["verify"]).await?.contains("agree"));
    ledger.execute("UPDATE monthly_usage_summary SET other_calls = 9, total_calls = 9").await?;
    for command in
        [&["verify"][..], &["rebuild", "--dry-run"], &["rebuild", "--only", "summaries", "--dry-run"]]
    {
        let said = ledger.exits(1, command).await?;
        for part in ["monthly_usage_summary", &user.to_string(), "total_calls: 2 by log, 9 in the table"] {
            assert!(said.contains(part), "{command:?} does not name {part}: {said}");
        }
    }
    ledger.exits(0, &["rebuild", "--only", "summaries"]).await?;
    ledger.exits(0, &["verify"]).await?;

    ledger.execute("DELETE FROM api_usage").await?;
    ledger.exits(1, &["rebuild", "--swap"]).await?;
    ledger.exits(0, &["rebuild", "--hold"]).await?;
    ledger.exits(1, &["verify"]).await?;
    ledger.publish(vec![ledger.call(user)]).await?;
    assert!(ledger.exits(0, &["rebuild", "--swap"]).await?.contains("are live"));
    ledger.exits(0, &["verify"]).await?;
    ledger.exits(0, &["rebuild", "--hold"]).await?;
    assert!(ledger.exits(0, &["rebuild", "--drop"]).await?.contains("dropped"));
    assert!(ledger.exits(0, &["rebuild", "--drop"]).await?.contains("nothing"));
    assert!(ledger.exits(0, &["rebuild"]).await?.contains("no differences"));
    assert!(ledger.exits(0, &["rollover"]).await?.contains("no month"));
    Ok(())
}

#[tokio::test]
async fn dead_letters_and_lost_frames_have_a_way_on() -> Result<()> {
    let ledger = Operated::start().await?;
    let user = UserId::new(ledger.env.ids.random_id());
    let unknown = String::from_utf8(ledger.call(user).0.to_vec())?.replacen(".v1\"", ".v9\"", 1);
    ledger.publish(vec![ledger.call(user), EncodedEvent::from(unknown.into_bytes())]).await?;
    let listed = ledger.exits(0, &["dead-letters", "list"]).await?;
    assert!(listed.starts_with("1\t1\t") && listed.contains("\tunknown\t"), "{listed}");
    assert!(ledger.exits(1, &["dead-letters", "retry", "--all"]).await?.contains("applied 0, still dead 1"));
    ledger.exits(1, &["dead-letters", "retry", "--seq", "1", "--idx", "0"]).await?;
    ledger.exits(2, &["dead-letters", "retry"]).await?;
    assert!(ledger.exits(0, &["log", "status"]).await?.contains("whole\tfrom frame 2 on"));

    // A frame that is not what was sent.
    let mut body = [b"[".as_slice(), &ledger.call(user).0, b"]"].concat();
    let header = FrameHeader::of(ledger.env.ids.random_id(), 1, 1, &body);
    body[1] ^= 1;
    let jetstream = async_nats::jetstream::new(nats::client(ledger.env.nats_url()).await?);
    jetstream.publish_with_headers(ledger.log.subject(), header.to_headers(), body.into()).await?.await?;
    let stopped = async || {
        let state = sqlx::query_scalar::<_, String>("SELECT state FROM projector_status");
        state.fetch_one(ledger.env.pool()).await.is_ok_and(|state| state == "stopped")
    };
    wait_until(BOUND, stopped).await;
    let said = ledger.exits(1, &["log", "status"]).await?;
    assert!(said.contains("not whole") && said.contains("log accept --seq 2..2"), "{said}");
    ledger.exits(1, &["log", "accept", "--seq", "1..2", "--reason", "too much"]).await?;
    let said = ledger.exits(0, &["log", "accept", "--seq", "2..2", "--reason", "it burnt"]).await?;
    assert!(said.contains("accepted 2..2 as damaged"), "{said}");
    ledger.projected_to(3).await;
    assert!(ledger.exits(0, &["log", "status"]).await?.contains("it burnt"));
    ledger.exits(0, &["verify"]).await?;
    Ok(())
}

/// Killed like that it can say nothing; what it had filled is gone on with.
#[tokio::test]
async fn a_rebuild_that_was_killed_goes_on_where_it_was() -> Result<()> {
    let ledger = Operated::start().await?;
    let user = UserId::new(ledger.env.ids.random_id());
    let (frames, of) = (FRAMES, 1_000);
    for _ in 0..frames {
        ledger.publisher.publish_all((0..of).map(|_| ledger.call(user)).collect()).await?;
    }
    ledger.projected_to(frames).await;
    let mut rebuild = Program::start(&ledger.dir, &["rebuild"], &ledger.variables())?;
    let half_way = async || {
        let seq = sqlx::query_scalar::<_, i64>("SELECT seq FROM ledger_next.projection_checkpoint");
        seq.fetch_one(ledger.env.pool()).await.is_ok_and(|seq| seq > 0)
    };
    wait_until(BOUND, half_way).await;
    rebuild.signal(Signal::SIGKILL)?;
    assert_eq!(rebuild.wait().await?.code(), None, "it ended before it was killed");
    let said = ledger.exits(0, &["rebuild"]).await?;
    let read: i64 = said
        .lines()
        .find_map(|line| line.split_once(" events read")?.0.rsplit(char::is_whitespace).next()?.parse().ok())
        .unwrap_or_default();
    assert!(0 < read && read < frames * of, "{said}");
    assert!(said.contains("no differences"), "{said}");
    ledger.exits(0, &["verify"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_worker_alone_serves_its_metrics() -> Result<()> {
    let (env, dir) = (Env::start().await?, DataDir::new()?);
    let address = format!("127.0.0.1:{}", infra::free_port()?);
    let variables = [
        ("DATABASE_URL", env.database_url()),
        ("NATS_URL", env.nats_url()),
        ("NATS_MONITOR_URL", env.monitor_url()),
        ("NATS_STREAM", env.stream_name()),
        ("ENCRYPTION_KEY", testkit::ENCRYPTION_KEY),
        ("METRICS_ADDR", &address),
    ];
    let _worker = Program::start(&dir, &["worker"], &variables)?;
    let client = Client::new(format!("http://{address}"))?;
    let told = async || {
        let Ok(answer) = client.get("/metrics").send().await else { return false };
        let text = answer.text();
        text.contains("ledger_projector_stopped 0") && text.contains("ledger_dead_letters 0")
    };
    wait_until(BOUND, told).await;
    // A port that is taken is an error of one line at the start.
    let second = output(&dir, &["worker"], &variables).await?;
    let line = second.errors.lines().last().unwrap_or_default();
    assert!(second.code == Some(1) && line.contains("METRICS_ADDR"), "{:?} {line}", second.code);
    Ok(())
}
