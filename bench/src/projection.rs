//! The projector alone on a full stream against COPY of the same rows, `rebuild` against reading the same stream, and
//! what a call takes on the disks.

use std::time::{Duration, Instant};

use anyhow::ensure;
use ledger::Clock;
use nats::{Log, Reader, ReaderConfig};
use sqlx::{Connection as _, PgConnection};

use crate::calls::{self, EVENTS_PER_FRAME};
use crate::copy::{self, events_in};
use crate::probe::Probe;
use crate::process::Machine;
use crate::report::{Report, Target};

const EVENTS: usize = 2_000_000;
const USERS: usize = 1_000;
/// Frames that are read at a time where nothing but reading is measured.
const FRAMES_PER_READ: usize = 10_000;
const BOUND: Duration = Duration::from_mins(3);

/// Measures everything of projecting on servers with nothing else in them.
pub(crate) async fn measure(machine: &Machine, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("projection: {EVENTS} events in frames of {EVENTS_PER_FRAME}");
    let log = calls::log_of(machine).await?;
    let (keys, clock) = (calls::data_keys(machine, USERS).await?, Clock::system());
    calls::write(&log, EVENTS, Some(&keys), |n| (calls::user(n % USERS), clock.now())).await?;
    let mut probe = Probe::connect(machine).await?;
    report.hold("log_bytes_per_call", per_call(probe.log_bytes().await?, EVENTS), Target::AtMost(500.0));

    let projector = projector_rate(machine).await?;
    report.add("projector_events_per_s", projector);
    let pg_bytes = table_bytes(machine).await?;
    report.hold("pg_bytes_per_call", per_call(pg_bytes, EVENTS), Target::AtMost(240.0));
    let copy = copy::rate(machine, &log, 1, EVENTS).await?;
    report.add("copy_rows_per_s", copy);
    report.hold("projector_vs_copy", projector / copy, Target::AtLeast(0.9));

    let read = read_rate(&log).await?;
    report.add("read_and_drop_events_per_s", read);
    let rebuild = rebuild_rate(machine).await?;
    report.add("rebuild_events_per_s", rebuild);
    report.hold("rebuild_vs_read", rebuild / read, Target::AtLeast(0.8));
    Ok(())
}

/// Bytes of all tables that the worker writes, with their indexes.
pub(crate) async fn table_bytes(machine: &Machine) -> anyhow::Result<i64> {
    let mut connection = PgConnection::connect(machine.variable("DATABASE_URL")?).await?;
    let bytes = sqlx::query_scalar(
        "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'ledger' AND c.relkind = 'r'",
    );
    Ok(bytes.fetch_one(&mut connection).await?)
}

#[expect(clippy::cast_precision_loss, reason = "bytes and counts stay far below 2^52")]
pub(crate) fn per_call(bytes: i64, calls: usize) -> f64 {
    bytes as f64 / calls as f64
}

/// Events a second from the first checkpoint of a fresh worker to the last.
async fn projector_rate(machine: &Machine) -> anyhow::Result<f64> {
    let mut probe = Probe::connect(machine).await?;
    let worker = machine.run(&["worker"])?;
    let start = Instant::now();
    let (first, first_at) = loop {
        let (seq, events) = probe.checkpoint().await?;
        if seq > 0 {
            break (events, Instant::now());
        }
        ensure!(start.elapsed() < BOUND, "the worker did not begin");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let last = probe.wait_until_projected(BOUND).await?;
    let elapsed = first_at.elapsed();
    worker.stop().await?;
    ensure!(last == i64::try_from(EVENTS)?, "{last} events projected of {EVENTS}");
    Ok(rate(usize::try_from(last - first)?, elapsed))
}

/// Events a second when every frame is read, checked by nobody, and dropped.
async fn read_rate(log: &Log) -> anyhow::Result<f64> {
    let mut reader = Reader::open(log, 1, ReaderConfig::default());
    let (mut events, start) = (0, Instant::now());
    while events < EVENTS {
        events += events_in(&reader.next_batch(FRAMES_PER_READ).await?);
        ensure!(start.elapsed() < BOUND, "{events} events read of {EVENTS}");
    }
    Ok(rate(events, start.elapsed()))
}

/// Events a second of the whole command, from start to end.
async fn rebuild_rate(machine: &Machine) -> anyhow::Result<f64> {
    let start = Instant::now();
    let rebuild = machine.run(&["rebuild", "--only", "summaries"])?;
    rebuild.finish(BOUND).await?;
    Ok(rate(EVENTS, start.elapsed()))
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn rate(events: usize, elapsed: Duration) -> f64 {
    events as f64 / elapsed.as_secs_f64()
}
