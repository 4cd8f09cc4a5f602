//! Outcomes of calls against the calls themselves, in the same run with everything on the machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use sqlx::{Connection as _, PgConnection};

use crate::load::{self, Connection, Load};
use crate::probe::Probe;
use crate::process::{Machine, free_address};
use crate::report::{Report, Target};
use crate::tracked::{FORWARDED, Users, start_api};

/// Calls are made for so long; each is completed then.
const RUN: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 64;
const BODY: &str = r#"{"status_code":200,"response_time_ms":41,"response_size":18220}"#;

/// Makes calls, then tells how each of them ended.
pub(crate) async fn measure(machine: &Machine, users: &Users, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("outcomes: of the calls of {} s", RUN.as_secs());
    let address = free_address()?;
    let api = start_api(machine, &address).await?;
    let worker = machine.run(&["worker"])?;
    let mut probe = Probe::connect(machine).await?;
    probe.wait_until_projected(Duration::from_mins(2)).await?;
    let (calls, ids) = make_calls(&address, users).await?;
    report.add("completed_calls_per_s", calls.rate());
    let outcomes = complete(&address, machine.variable("ADMIN_TOKEN")?, ids).await?;
    report.add("outcomes_per_s", outcomes.rate());
    report.add("outcomes_p50_ms", outcomes.quantile_ms(0.5));
    report.add("outcomes_p99_ms", outcomes.quantile_ms(0.99));
    report.hold("outcomes_vs_tracked", outcomes.rate() / calls.rate(), Target::AtLeast(0.7));
    probe.wait_until_projected(Duration::from_mins(2)).await?;
    worker.stop().await?;
    api.stop().await?;
    let mut connection = PgConnection::connect(machine.variable("DATABASE_URL")?).await?;
    let completed: i64 = sqlx::query_scalar("SELECT count(*) FROM api_usage WHERE completed_seq IS NOT NULL")
        .fetch_one(&mut connection)
        .await?;
    ensure!(completed.unsigned_abs() == outcomes.answered, "{completed} of {} completed", outcomes.answered);
    Ok(())
}

/// Ids of the calls that each connection has made.
type CallIds = Vec<Vec<String>>;

async fn make_calls(address: &str, users: &Users) -> anyhow::Result<(Load, CallIds)> {
    let requests: Arc<[String]> = users
        .tokens
        .iter()
        .map(|token| {
            format!("GET /api/forward-auth HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n{FORWARDED}\r\n")
        })
        .collect();
    let start = Instant::now();
    let tasks = (0..CONNECTIONS).map(|first| {
        let (address, requests) = (address.to_owned(), Arc::clone(&requests));
        tokio::spawn(async move {
            let mut connection = Connection::open(&address).await?;
            let (mut latency_us, mut ids) = (load::histogram(), Vec::new());
            for n in (first..).step_by(CONNECTIONS) {
                let sent = Instant::now();
                if start + RUN < sent {
                    break;
                }
                let status = connection.exchange(requests[n % requests.len()].as_bytes()).await?;
                ensure!(status == 204, "answer {status}: {}", connection.text());
                latency_us.saturating_record(micros(sent));
                ids.push(connection.header("x-usage-call-id").context("a call without an id")?);
            }
            anyhow::Ok((latency_us, ids))
        })
    });
    let (mut latency_us, mut all) = (load::histogram(), CallIds::new());
    for task in tasks.collect::<Vec<_>>() {
        let (own, ids) = task.await??;
        latency_us.add(own).context("merging the latencies")?;
        all.push(ids);
    }
    Ok((Load { answered: latency_us.len(), elapsed: start.elapsed(), latency_us }, all))
}

async fn complete(address: &str, token: &str, ids: CallIds) -> anyhow::Result<Load> {
    let start = Instant::now();
    let tasks = ids.into_iter().map(|ids| {
        let (address, token) = (address.to_owned(), token.to_owned());
        tokio::spawn(async move {
            let mut connection = Connection::open(&address).await?;
            let mut latency_us = load::histogram();
            for id in ids {
                let request = format!(
                    "POST /api/usage/calls/{id}/outcome HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
                    BODY.len()
                );
                let sent = Instant::now();
                let status = connection.exchange(request.as_bytes()).await?;
                ensure!(status == 202, "answer {status}: {}", connection.text());
                latency_us.saturating_record(micros(sent));
            }
            anyhow::Ok(latency_us)
        })
    });
    let mut latency_us = load::histogram();
    for task in tasks.collect::<Vec<_>>() {
        latency_us.add(task.await??).context("merging the latencies")?;
    }
    Ok(Load { answered: latency_us.len(), elapsed: start.elapsed(), latency_us })
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
