//! What users read, each for the first time: nothing of theirs is in anybody's memory.

use std::time::{Duration, Instant};

use anyhow::ensure;
use jsonwebtoken::{EncodingKey, Header};
use ledger::Clock;

use crate::calls;
use crate::load::{Connection, histogram};
use crate::process::Machine;
use crate::report::{Report, Target};
use crate::tracked::Claims;

use super::longtail::Random;
use super::{USERS, first_month, named, serve};

/// Users who ask.
const ASKING: usize = 2_000;

/// 99th percentile of each kind of reading, in milliseconds.
pub(super) async fn measure(
    machine: &Machine,
    when: &'static str,
    report: &mut Report,
) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let (api, worker, address) = serve(machine).await?;
    let now = Clock::system().now();
    let key = EncodingKey::from_secret(machine.variable("JWT_SECRET")?.as_bytes())?;
    let exp = (now + chrono::Duration::hours(1)).timestamp();
    let mut random = Random::default();
    let mut found = Vec::new();
    let from = first_month(now).format("%Y-%m-%d");
    let to = ledger::Month::of(first_month(now)).end().format("%Y-%m-%d");
    let kinds = [
        (
            "stats",
            format!("GET /api/usage/stats?month={}", ledger::Month::of(first_month(now))),
            String::new(),
        ),
        ("history", format!("GET /api/usage/history?from={from}&to={to}&granularity=day"), String::new()),
        ("calls_page", format!("GET /api/usage/calls?from={from}&to={to}&limit=50"), String::new()),
        ("cold_check", "POST /api/usage/check".to_owned(), r#"{"endpoint":"/api/items/1"}"#.to_owned()),
    ];
    for (name, line, body) in kinds {
        let mut connection = Connection::open(&address).await?;
        let mut latency_us = histogram();
        for _ in 0..ASKING {
            let sub = calls::user(random.user(USERS)).get();
            let token = jsonwebtoken::encode(&Header::default(), &Claims { sub, exp }, &key)?;
            let request = format!(
                "{line} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let start = Instant::now();
            let status = connection.exchange(request.as_bytes()).await?;
            let elapsed: Duration = start.elapsed();
            ensure!(status == 200, "{name}: answer {status}: {}", connection.text());
            latency_us.saturating_record(u64::try_from(elapsed.as_micros())?);
        }
        #[expect(clippy::cast_precision_loss, reason = "microseconds of one request")]
        let p99_ms = latency_us.value_at_quantile(0.99) as f64 / 1_000.0;
        report.add(named(named(name, "p99_ms"), when), p99_ms);
        found.push((named(name, "p99"), p99_ms));
    }
    report.hold(named("scale_api_rss_mb", when), api.rss_mb()?, Target::AtMost(100.0));
    report.hold(named("scale_worker_rss_mb", when), worker.rss_mb()?, Target::AtMost(100.0));
    worker.stop().await?;
    api.stop().await?;
    Ok(found)
}
