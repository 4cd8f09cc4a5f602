//! Batch ingest to visible in the summary, with everything on this machine: PostgreSQL, NATS, api, worker, load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hdrhistogram::Histogram;

use crate::calls;
use crate::copy;
use crate::load::{self, Connection};
use crate::probe::Probe;
use crate::process::{Machine, free_address};
use crate::report::{Report, Target};
use crate::tracked::{Users, start_api};

const RUN: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 8;
const EVENTS_PER_REQUEST: usize = 100;
const SAMPLE: Duration = Duration::from_millis(10);
/// The pause of a reporter that is told to come again.
const AGAIN: Duration = Duration::from_millis(100);
const BOUND: Duration = Duration::from_mins(2);
/// Rows of the baseline.
const COPIED: usize = 500_000;
/// Digits of an id within a rendered request; they are overwritten in place.
const ID_DIGITS: usize = 16;
const ID_PLACEHOLDER: &str = "0000000000000000";

/// What became of an offered load.
struct Offered {
    /// Events that were accepted, and are projected.
    events: u64,
    /// From the first request until all of them were projected.
    elapsed: Duration,
    lag_us: Histogram<u64>,
}

impl Offered {
    #[expect(clippy::cast_precision_loss, reason = "counts of a short run")]
    fn visible_per_s(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds of a short run")]
    fn lag_p99_ms(&self) -> f64 {
        self.lag_us.value_at_quantile(0.99) as f64 / 1_000.0
    }
}

/// Measures how much ingest is sustained, the lag below that, and the memory of api and worker at the end.
pub(crate) async fn measure(machine: &Machine, users: &Users, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("ingest: {EVENTS_PER_REQUEST} events a request, {} s each", RUN.as_secs());
    let address = free_address()?;
    let api = start_api(machine, &address).await?;
    let worker = machine.run(&["worker"])?;
    let mut probe = Probe::connect(machine).await?;
    probe.wait_until_projected(BOUND).await?;
    let from_seq = u64::try_from(probe.last_seq().await?)? + 1;

    let load = Reporters { machine, users, address, next_id: Arc::new(AtomicU64::new(1)) };
    // As much as is taken: what is sustained includes that reporters wait when they are told to.
    let sustained = load.offer(&mut probe, None).await?.visible_per_s();
    report.add("ingest_visible_per_s", sustained);
    let at_60 = load.offer(&mut probe, Some(sustained * 0.6)).await?;
    report.hold("ingest_lag_p99_ms", at_60.lag_p99_ms(), Target::AtMost(250.0));
    let at_90 = load.offer(&mut probe, Some(sustained * 0.9)).await?;
    report.hold("ingest_lag_at_90_p99_ms", at_90.lag_p99_ms(), Target::AtMost(1_000.0));
    report.hold("api_rss_mb", api.rss_mb()?, Target::AtMost(100.0));
    report.hold("worker_rss_mb", worker.rss_mb()?, Target::AtMost(100.0));
    worker.stop().await?;
    api.stop().await?;
    let copy = copy::rate(machine, &calls::log_of(machine).await?, from_seq, COPIED).await?;
    report.add("ingest_copy_rows_per_s", copy);
    report.hold("ingest_visible_vs_copy", sustained / copy, Target::AtLeast(0.55));
    Ok(())
}

/// Those who report calls.
struct Reporters<'a> {
    machine: &'a Machine,
    users: &'a Users,
    address: String,
    next_id: Arc<AtomicU64>,
}

impl Reporters<'_> {
    /// Offers so many events a second, or as many as are taken, and waits until they are projected.
    async fn offer(&self, probe: &mut Probe, per_s: Option<f64>) -> anyhow::Result<Offered> {
        let (_, before) = probe.checkpoint().await?;
        let stop = Arc::new(AtomicBool::new(false));
        let sampler = tokio::spawn(sample_lag(Probe::connect(self.machine).await?, Arc::clone(&stop)));
        let start = Instant::now();
        let events = self.send(per_s).await?;
        let after = probe.wait_until_projected(BOUND).await?;
        let elapsed = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        let lag_us = sampler.await??;
        let visible = u64::try_from(after - before)?;
        ensure!(visible >= events, "{events} events accepted, {visible} projected");
        Ok(Offered { events, elapsed, lag_us })
    }

    async fn send(&self, per_s: Option<f64>) -> anyhow::Result<u64> {
        let token = self.machine.variable("ADMIN_TOKEN")?;
        #[expect(clippy::cast_precision_loss, reason = "small constants")]
        let every = per_s.map_or(Duration::ZERO, |per_s| {
            Duration::from_secs_f64((CONNECTIONS * EVENTS_PER_REQUEST) as f64 / per_s)
        });
        let tasks: Vec<_> = (0..CONNECTIONS)
            .map(|n| {
                let request = Request::render(token, self.users, n);
                tokio::spawn(report(self.address.clone(), request, Arc::clone(&self.next_id), every))
            })
            .collect();
        let mut accepted = 0;
        for task in tasks {
            accepted += task.await??;
        }
        Ok(accepted)
    }
}

/// One reporter: a request every so often, and again when it is told to come again. Answers of events accepted.
async fn report(
    address: String,
    mut request: Request,
    next_id: Arc<AtomicU64>,
    every: Duration,
) -> anyhow::Result<u64> {
    let mut connection = Connection::open(&address).await?;
    let (start, mut accepted) = (Instant::now(), 0);
    let mut due = start;
    while start.elapsed() < RUN {
        tokio::time::sleep_until(due.into()).await;
        due += every;
        request.renew_ids(next_id.fetch_add(EVENTS_PER_REQUEST as u64, Ordering::Relaxed));
        loop {
            match connection.exchange(&request.bytes).await? {
                202 => break accepted += EVENTS_PER_REQUEST as u64,
                429 if start.elapsed() < RUN => tokio::time::sleep(AGAIN).await,
                429 => break,
                status => bail!("answer {status}: {}", connection.text()),
            }
        }
    }
    Ok(accepted)
}

/// One request, rendered once; only its ids change.
struct Request {
    bytes: Vec<u8>,
    id_offsets: Vec<usize>,
}

impl Request {
    fn render(token: &str, users: &Users, connection: usize) -> Self {
        let events: Vec<String> = (0..EVENTS_PER_REQUEST)
            .map(|n| {
                let user = users.ids[(connection * EVENTS_PER_REQUEST + n) % users.ids.len()];
                format!(
                    r#"{{"id":"{ID_PLACEHOLDER}","type":"call","subject":"{user}","data":{{"endpoint":"/api/items/{n}","method":"GET","status_code":200,"response_time_ms":{},"response_size":512}}}}"#,
                    n % 50
                )
            })
            .collect();
        let body = format!("[{}]", events.join(","));
        let text = format!(
            "POST /api/usage/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let id_offsets = text.match_indices(ID_PLACEHOLDER).map(|(offset, _)| offset).collect();
        Self { bytes: text.into_bytes(), id_offsets }
    }

    fn renew_ids(&mut self, first: u64) {
        for (id, &offset) in (first..).zip(&self.id_offsets) {
            let mut id = id;
            for digit in self.bytes[offset..offset + ID_DIGITS].iter_mut().rev() {
                *digit = b'0' + u8::try_from(id % 10).unwrap_or_default();
                id /= 10;
            }
        }
    }
}

/// Time from the instant at which a sequence was seen in the log to the one at which the checkpoint had passed it.
async fn sample_lag(mut probe: Probe, stop: Arc<AtomicBool>) -> anyhow::Result<Histogram<u64>> {
    let mut lag_us = load::histogram();
    let mut waiting = std::collections::VecDeque::new();
    while !stop.load(Ordering::Relaxed) || !waiting.is_empty() {
        let seen = Instant::now();
        waiting.push_back((probe.last_seq().await?, seen));
        let (checkpoint, _) = probe.checkpoint().await?;
        while let Some(&(seq, seen)) = waiting.front() {
            if seq > checkpoint {
                break;
            }
            lag_us.saturating_record(u64::try_from(seen.elapsed().as_micros())?);
            waiting.pop_front();
        }
        tokio::time::sleep(SAMPLE).await;
    }
    Ok(lag_us)
}
