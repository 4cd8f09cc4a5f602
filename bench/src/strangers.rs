//! Whether the time of an answer tells a user that another one exists.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sqlx::{Connection as _, PgConnection};

use crate::load::Connection;
use crate::process::{Machine, free_address};
use crate::report::{Report, Target};
use crate::tracked::{Users, start_api};

const ROUNDS: usize = 2_000;
const KNOWN: &str = "somebody-who-is-there";
const UNKNOWN: &str = "somebody-who-is-not-.";

/// Asks in turn for the figures of a user who exists and of one who does not, and compares the medians.
pub(crate) async fn measure(machine: &Machine, users: &Users, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("naming another user: {ROUNDS} times who is there, and who is not");
    let mut database = PgConnection::connect(machine.variable("DATABASE_URL")?).await?;
    sqlx::query(
        "INSERT INTO public.users (user_id, external_id, created_at, updated_at)
         VALUES (gen_random_uuid(), $1, now(), now())",
    )
    .bind(KNOWN)
    .execute(&mut database)
    .await?;
    let address = free_address()?;
    let api = start_api(machine, &address).await?;
    let token = &users.tokens[0];
    let request = |name: &str| {
        format!(
            "GET /api/usage/stats?user_id={name} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
    };
    let mut connection = Connection::open(&address).await?;
    let mut took = [Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS)];
    for _ in 0..ROUNDS {
        for (name, took) in [KNOWN, UNKNOWN].into_iter().zip(&mut took) {
            let sent = Instant::now();
            let status = connection.exchange(request(name).as_bytes()).await?;
            took.push(sent.elapsed());
            ensure!(status == 404, "answer {status}: {}", connection.text());
        }
    }
    let [known, unknown] = took.map(median);
    report.add("named_known_ms", known.as_secs_f64() * 1_000.0);
    report.add("named_unknown_ms", unknown.as_secs_f64() * 1_000.0);
    let ratio = known.as_secs_f64() / unknown.as_secs_f64();
    report.hold("named_known_to_unknown", ratio.max(1.0 / ratio), Target::AtMost(1.05));
    api.stop().await
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}
