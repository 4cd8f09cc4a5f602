//! `make bench-scale`: a million users in a long tail, three months, as many calls as are asked for; against the same
//! over a thousand users, and against itself while it was small.

mod closing;
mod imports;
mod longtail;
mod reads;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use chrono::{DateTime, Utc};
use ledger::{Clock, Month};
use nats::Log;
use sqlx::{Connection as _, PgConnection};

use crate::calls;
use crate::probe::Probe;
use crate::process::{Machine, Process, free_address};
use crate::projection::{per_call, table_bytes};
use crate::report::{Report, Target};
use crate::tracked::start_api;

use longtail::LongTail;

/// Users of the long tail.
const USERS: usize = 1_000_000;
/// Users of what it is held against.
const FEW_USERS: usize = 1_000;
const MILLION: usize = 1_000_000;
/// Calls over few users.
const FEW_CALLS: usize = 2 * MILLION;
/// Longest time for any one step.
const BOUND: Duration = Duration::from_mins(30);
/// No month is closed before it is asked for.
const NEVER: &str = "87600h";

/// Measures everything at scale: `rows` calls, in millions.
pub(crate) async fn measure(target: &Path, rows: usize, report: &mut Report) -> anyhow::Result<()> {
    let rows = rows.next_multiple_of(MILLION).max(3 * MILLION);
    eprintln!("scale: {} million calls of {USERS} users", rows / MILLION);
    let few = Machine::start(target, "scale-few").await?;
    let few_per_s = project_few(&few).await?;
    report.add("projector_1000_per_s", few_per_s);
    imports::measure(&few, report).await?;
    few.stop().await?;

    let mut machine = Machine::start(target, "scale").await?;
    machine.environment.insert("CLOSE_GRACE".to_owned(), NEVER.to_owned());
    add_users(&machine).await?;
    let log = calls::log_of(&machine).await?;
    let mut tail = LongTail::new(rows, Clock::system().now());
    tail.write(&log, MILLION).await?;
    project(&machine, &log).await?;
    let small_reads = reads::measure(&machine, "at_1m", report).await?;
    let small_checks = check(&machine, "at_1m", 1, report).await?;

    tail.write(&log, rows - MILLION).await?;
    let millions = project(&machine, &log).await?;
    let (second, last) = (millions[0], millions[millions.len() - 1]);
    let all = millions.iter().map(|per_s| 1.0 / per_s).sum::<f64>();
    #[expect(clippy::cast_precision_loss, reason = "a few millions")]
    let longtail_per_s = millions.len() as f64 / all;
    report.add("projector_longtail_per_s", longtail_per_s);
    report.hold("projector_longtail_vs_1000", longtail_per_s / few_per_s, Target::AtLeast(0.6));
    report.hold("last_million_vs_second", last / second, Target::AtLeast(0.85));
    report.hold(
        "scale_pg_bytes_per_call",
        per_call(table_bytes(&machine).await?, rows),
        Target::AtMost(320.0),
    );

    closing::measure(&machine, &log, report).await?;
    let reads = reads::measure(&machine, "at_end", report).await?;
    for ((name, before), (_, after)) in small_reads.iter().zip(&reads) {
        report.hold(named(name, "vs_1m"), after / before, Target::AtMost(1.2));
    }
    let checks = check(&machine, "at_end", rows / MILLION, report).await?;
    for ((name, before), (_, after)) in small_checks.iter().zip(&checks) {
        report.hold(named(name, "per_million_vs_1m"), after / before, Target::AtMost(1.15));
    }
    machine.stop().await
}

/// Events a second of a projector over few users.
async fn project_few(machine: &Machine) -> anyhow::Result<f64> {
    let log = calls::log_of(machine).await?;
    let (start, every) = (Clock::system().now() - chrono::TimeDelta::days(58), 58 * 86_400_000_000_i64);
    let every = every / i64::try_from(FEW_CALLS)?;
    calls::write(&log, FEW_CALLS, None, |n| {
        let since = chrono::TimeDelta::microseconds(every * i64::try_from(n).unwrap_or_default());
        (calls::user(n % FEW_USERS), start + since)
    })
    .await?;
    let millions = project(machine, &log).await?;
    #[expect(clippy::cast_precision_loss, reason = "a few millions")]
    let count = millions.len() as f64;
    Ok(count / millions.iter().map(|per_s| 1.0 / per_s).sum::<f64>())
}

/// Accounts of all users, straight in the tables: their calls are what is measured.
async fn add_users(machine: &Machine) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(machine.variable("DATABASE_URL")?).await?;
    for first in (0..USERS).step_by(50_000) {
        let ids: Vec<uuid::Uuid> = (first..first + 50_000).map(|n| calls::user(n).get()).collect();
        sqlx::query(
            "INSERT INTO public.users (user_id, created_at, updated_at)
             SELECT id, '2026-01-01Z', '2026-01-01Z' FROM UNNEST($1::uuid[]) AS id",
        )
        .bind(&ids)
        .execute(&mut connection)
        .await?;
    }
    sqlx::raw_sql("VACUUM ANALYZE public.users").execute(&mut connection).await?;
    Ok(())
}

/// Projects all that is in the log; events a second of every million of them, from the worker's first checkpoint on.
async fn project(machine: &Machine, log: &Log) -> anyhow::Result<Vec<f64>> {
    let mut probe = Probe::connect(machine).await?;
    let (_, before) = probe.checkpoint().await?;
    let end = i64::try_from(log.state().await?.last_seq)?;
    let worker = machine.run(&["worker"])?;
    let began = Instant::now();
    let (mut millions, mut mark) = (Vec::new(), None);
    loop {
        let (seq, events) = probe.checkpoint().await?;
        if events > before {
            let (events_at_mark, at) = *mark.get_or_insert((events, Instant::now()));
            let done = events - events_at_mark;
            if done >= i64::try_from(MILLION)? || seq >= end && done > i64::try_from(MILLION / 2)? {
                #[expect(clippy::cast_precision_loss, reason = "a few millions")]
                millions.push(done as f64 / at.elapsed().as_secs_f64());
                mark = Some((events, Instant::now()));
            }
        }
        if seq >= end {
            break;
        }
        ensure!(began.elapsed() < BOUND, "{} frames are not projected after {BOUND:?}", end - seq);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    worker.stop().await?;
    ensure!(!millions.is_empty(), "nothing was projected");
    Ok(millions)
}

/// `verify` and a dry run of `rebuild --only summaries`: seconds a million rows, and the most memory of each.
async fn check(
    machine: &Machine,
    when: &'static str,
    millions: usize,
    report: &mut Report,
) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let mut found = Vec::new();
    for (name, arguments) in
        [("verify", &["verify"][..]), ("rebuild", &["rebuild", "--only", "summaries", "--dry-run"])]
    {
        let start = Instant::now();
        let peak_mb = machine.run(arguments)?.finish(BOUND).await?;
        #[expect(clippy::cast_precision_loss, reason = "a few millions")]
        let per_million_s = start.elapsed().as_secs_f64() / millions as f64;
        report.add(named(named(name, "s_per_million"), when), per_million_s);
        report.hold(named(named(name, "rss_mb"), when), peak_mb, Target::AtMost(256.0));
        found.push((name, per_million_s));
    }
    Ok(found)
}

/// Api and worker at work on this machine, and the api's address.
async fn serve(machine: &Machine) -> anyhow::Result<(Process, Process, String)> {
    let address = free_address()?;
    let api = start_api(machine, &address).await?;
    let worker = machine.run(&["worker"])?;
    Probe::connect(machine).await?.wait_until_projected(BOUND).await?;
    Ok((api, worker, address))
}

/// The first instant of the month two months before the one of `now`.
fn first_month(now: DateTime<Utc>) -> DateTime<Utc> {
    Month::of(now).prev().prev().start()
}

/// A figure's name lives as long as the process does.
fn named(name: &str, what: &str) -> &'static str {
    Box::leak(format!("{name}_{what}").into_boxed_str())
}
