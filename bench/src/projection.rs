//! The projector alone on a full stream against COPY of the same rows, and `rebuild` against reading the same stream.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use data_keys::{KeyConfig, Keys};
use events::{ApiCalled, Body, Event, Personal, SealedJson};
use ledger::{Category, Clock, IdSource, Month, UserId};
use nats::{EncodedEvent, Log, Publisher, PublisherConfig, RawFrame, Reader, ReaderConfig};
use sqlx::{Connection as _, PgConnection};
use store::identity::users::NewUser;
use store::projection::usage_rows::{self, CopyBuffer, UsageRow};
use uuid::Uuid;
use vault::{DataKey, OsEntropy};

use crate::probe::Probe;
use crate::process::Machine;
use crate::report::{Report, Target};

const EVENTS: usize = 2_000_000;
const EVENTS_PER_FRAME: usize = 1_000;
const USERS: usize = 1_000;
/// The most events that the projector takes into one transaction; the baseline commits as many.
const FRAMES_PER_COMMIT: usize = 10;
const BOUND: Duration = Duration::from_mins(3);

/// Measures everything of issue figures 3 and 4 on servers with nothing else in them.
pub(crate) async fn measure(machine: &Machine, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("projection: {EVENTS} events in frames of {EVENTS_PER_FRAME}");
    let log = nats::connect(&nats::Connection::new(
        machine.variable("NATS_URL")?,
        machine.environment.get("NATS_STREAM").map_or("LEDGER", String::as_str).parse()?,
    ))
    .await?;
    log.ensure_stream(1).await?;
    fill(machine, &log).await?;

    let projector = projector_rate(machine).await?;
    report.add("projector_events_per_s", projector);
    let copy = copy_rate(machine, &log).await?;
    report.add("copy_rows_per_s", copy);
    report.hold("projector_vs_copy", projector / copy, Target::AtLeast(0.65));

    let read = read_rate(&log).await?;
    report.add("read_and_drop_events_per_s", read);
    let rebuild = rebuild_rate(machine).await?;
    report.hold("rebuild_events_per_s", rebuild, Target::AtLeast(1_000_000.0));
    report.add("rebuild_vs_read", rebuild / read);
    Ok(())
}

/// Writes [`EVENTS`] admitted calls, as the api writes them.
async fn fill(machine: &Machine, log: &Log) -> anyhow::Result<()> {
    let clock = Clock::system();
    let keys = data_keys(machine, &clock).await?;
    let (ids, producers) = (IdSource::new(clock.clone()), IdSource::new(clock.clone()));
    let publisher = Publisher::start(log, PublisherConfig::default(), move || producers.random_id()).await?;
    for first in (0..EVENTS).step_by(EVENTS_PER_FRAME) {
        let frame: Vec<EncodedEvent> = (first..first + EVENTS_PER_FRAME)
            .map(|n| {
                let (id, time) = (ids.event_id(), clock.now());
                let called = called(n, seal(&keys[&user(n)], &id.to_string())?);
                Ok(EncodedEvent::of(&Event::by_api(id, user(n), time, called)))
            })
            .collect::<anyhow::Result<_>>()?;
        publisher.publish_all(frame).await?;
    }
    publisher.close().await;
    Ok(())
}

/// Accounts of all users, with a data key each.
async fn data_keys(machine: &Machine, clock: &Clock) -> anyhow::Result<HashMap<UserId, Arc<DataKey>>> {
    let url = machine.variable("DATABASE_URL")?;
    let users: Vec<UserId> = (0..USERS).map(user).collect();
    let accounts = users.iter().map(|user| NewUser::unnamed(user.get())).collect();
    let mut conn = store::connect(url, store::Schema::Live).await?;
    store::identity::users::provision(&mut conn, accounts, clock.now()).await?;
    let config = KeyConfig::read(&|name| machine.environment.get(name).cloned());
    let keys = Keys::start(url, &config, clock).await?.get_or_make_many(&mut conn, &users).await?;
    keys.into_iter().map(|(user, key)| Ok((user, key?))).collect()
}

fn seal(key: &DataKey, event_id: &str) -> anyhow::Result<SealedJson<'static>> {
    let sealed = key.seal_personal(event_id, &personal().to_json(), &OsEntropy)?;
    Ok(SealedJson::new(sealed.to_json())?)
}

fn personal() -> Personal<'static> {
    Personal::of_client(Some(IpAddr::from([203, 0, 113, 7])), Some("bench/1.0".into()))
}

fn user(n: usize) -> UserId {
    UserId::new(Uuid::from_u128(0xbe9c << 64 | (n % USERS) as u128))
}

fn called(n: usize, personal: SealedJson<'static>) -> Body<'static> {
    Body::ApiCalled(ApiCalled {
        endpoint: format!("/api/items/{}", n % 500).into(),
        method: Some("GET".into()),
        status_code: Some(200),
        response_time_ms: Some(u32::try_from(n % 90).unwrap_or_default()),
        personal: Some(personal),
        request_size: None,
        response_size: Some(512),
        units: 1,
        category: Category::Other,
        counted: true,
        key_id: None,
        reservation_id: None,
        lease: None,
        actor: None,
        request: None,
    })
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

/// Rows a second of COPY alone into the same indexed table: the buffers are ready before the clock starts.
async fn copy_rate(machine: &Machine, log: &Log) -> anyhow::Result<f64> {
    let mut connection = PgConnection::connect(machine.variable("DATABASE_URL")?).await?;
    let schema = "DROP SCHEMA IF EXISTS copy_alone CASCADE; CREATE SCHEMA copy_alone; SET search_path = copy_alone;
                  CREATE TABLE api_usage (LIKE ledger.api_usage INCLUDING ALL) PARTITION BY RANGE (created_at)";
    sqlx::raw_sql(schema).execute(&mut connection).await?;
    let (mut rows, mut elapsed) = (0, Duration::ZERO);
    let mut reader = Reader::open(log, 1, ReaderConfig::default());
    while rows < EVENTS {
        let mut frames = Vec::with_capacity(FRAMES_PER_COMMIT);
        while frames.len() < FRAMES_PER_COMMIT && rows + events_in(&frames) < EVENTS {
            frames.extend(reader.next_batch(EVENTS_PER_FRAME).await?);
        }
        let batch = buffers(&frames)?;
        for month in batch.iter().map(|(month, _)| *month) {
            store::projection::partitions::ensure(&mut connection, month).await?;
        }
        let start = Instant::now();
        let mut transaction = connection.begin().await?;
        for (month, buffer) in &batch {
            usage_rows::copy(&mut transaction, *month, buffer).await?;
        }
        transaction.commit().await?;
        elapsed += start.elapsed();
        rows += events_in(&frames);
    }
    sqlx::raw_sql("DROP SCHEMA copy_alone CASCADE").execute(&mut connection).await?;
    Ok(rate(rows, elapsed))
}

fn events_in(frames: &[RawFrame]) -> usize {
    frames.iter().map(RawFrame::count).sum()
}

/// The same rows as the projector's, encoded for COPY; nearly always one month.
fn buffers(frames: &[RawFrame]) -> anyhow::Result<Vec<(Month, CopyBuffer)>> {
    let mut buffers: Vec<(Month, CopyBuffer)> = Vec::new();
    let mut tuple = Vec::new();
    for frame in frames {
        for (idx, event) in (0_u16..).zip(events::decode_batch(&frame.body)?) {
            let event = event.ok().context("an event of the bench's own does not decode")?;
            let Body::ApiCalled(called) = &event.body else { continue };
            let month = Month::of(event.time);
            tuple.clear();
            usage_rows::encode(&row(&event, called, frame.seq, idx, &month.to_string())?, &mut tuple);
            let at = buffers.iter().position(|(of, _)| *of == month).unwrap_or_else(|| {
                buffers.push((month, CopyBuffer::with_capacity(4 * 1024 * 1024)));
                buffers.len() - 1
            });
            buffers[at].1.push(&tuple);
        }
    }
    Ok(buffers)
}

fn row<'a>(
    event: &Event<'_>,
    called: &'a ApiCalled<'_>,
    seq: u64,
    idx: u16,
    month_year: &'a str,
) -> anyhow::Result<UsageRow<'a>> {
    let created_at: DateTime<Utc> = event.time;
    Ok(UsageRow {
        id: event.row_id().ok().context("a row id")?,
        user: event.subject.context("a subject")?,
        created_at,
        month_year,
        position: store::Position { seq, idx },
        units: called.units,
        response_time_ms: called.response_time_ms,
        request_size: called.request_size,
        response_size: called.response_size,
        status_code: called.status_code,
        counted: called.counted,
        category: called.category,
        method: called.method.as_deref(),
        endpoint: &called.endpoint,
        ip_address: Some("203.0.113.7"),
        user_agent: Some("bench/1.0"),
    })
}

/// Events a second when every frame is read, checked by nobody, and dropped.
async fn read_rate(log: &Log) -> anyhow::Result<f64> {
    let mut reader = Reader::open(log, 1, ReaderConfig::default());
    let (mut events, start) = (0, Instant::now());
    while events < EVENTS {
        events += events_in(&reader.next_batch(EVENTS_PER_FRAME * FRAMES_PER_COMMIT).await?);
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
