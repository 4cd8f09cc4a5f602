//! Batch ingest to visible in the summary, with everything on this machine: PostgreSQL, NATS, api, worker, load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;

use crate::load::{self, Connection};
use crate::probe::Probe;
use crate::process::{Machine, free_address};
use crate::report::{Report, Target};
use crate::tracked::{Users, start_api};

const RUN: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 8;
const EVENTS_PER_REQUEST: usize = 100;
/// Rate that the load offers: one that a host reports at, not as much as the api takes, which is more than one
/// projector can make visible.
const OFFERED_PER_S: f64 = 60_000.0;
const SAMPLE: Duration = Duration::from_millis(10);
/// Digits of an id within a rendered request; they are overwritten in place.
const ID_DIGITS: usize = 16;
const ID_PLACEHOLDER: &str = "0000000000000000";

/// Measures everything of issue figure 2, and the memory of api and worker at its end.
pub(crate) async fn measure(machine: &Machine, users: &Users, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("ingest: {EVENTS_PER_REQUEST} events a request, {} s", RUN.as_secs());
    let address = free_address()?;
    let api = start_api(machine, &address).await?;
    let worker = machine.run(&["worker"])?;
    let mut probe = Probe::connect(machine).await?;
    let before = probe.wait_until_projected(Duration::from_mins(1)).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let sampler = tokio::spawn(sample_lag(Probe::connect(machine).await?, Arc::clone(&stop)));
    let start = Instant::now();
    let accepted = send(&address, machine.variable("ADMIN_TOKEN")?, users).await?;
    let after = probe.wait_until_projected(Duration::from_mins(1)).await?;
    let elapsed = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    let lag_us = sampler.await??;

    let visible = after - before;
    ensure!(u64::try_from(visible)? >= accepted, "{accepted} events accepted, {visible} projected");
    #[expect(clippy::cast_precision_loss, reason = "counts of a short run")]
    let (visible, lag_p99_us) = (visible as f64, lag_us.value_at_quantile(0.99) as f64);
    report.hold("ingest_visible_per_s", visible / elapsed.as_secs_f64(), Target::AtLeast(50_000.0));
    report.hold("ingest_lag_p99_ms", lag_p99_us / 1_000.0, Target::AtMost(500.0));
    report.hold("api_rss_mb", api.rss_mb()?, Target::AtMost(100.0));
    report.hold("worker_rss_mb", worker.rss_mb()?, Target::AtMost(100.0));
    worker.stop().await?;
    api.stop().await
}

async fn send(address: &str, token: &str, users: &Users) -> anyhow::Result<u64> {
    let next_id = Arc::new(AtomicU64::new(1));
    #[expect(clippy::cast_precision_loss, reason = "small constants")]
    let every = Duration::from_secs_f64((CONNECTIONS * EVENTS_PER_REQUEST) as f64 / OFFERED_PER_S);
    let start = Instant::now();
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            let mut request = Request::render(token, users, n);
            let (address, next_id) = (address.to_owned(), Arc::clone(&next_id));
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await?;
                let mut accepted = 0;
                let mut due = start;
                while start.elapsed() < RUN {
                    tokio::time::sleep_until(due.into()).await;
                    due += every;
                    request.renew_ids(next_id.fetch_add(EVENTS_PER_REQUEST as u64, Ordering::Relaxed));
                    let status = connection.exchange(&request.bytes).await?;
                    ensure!(status == 202, "answer {status}: {}", connection.text());
                    accepted += EVENTS_PER_REQUEST as u64;
                }
                anyhow::Ok(accepted)
            })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        accepted += task.await??;
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
