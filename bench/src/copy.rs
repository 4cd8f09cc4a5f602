//! COPY of the same rows that the projector writes, into the table as it was before its indexes were chosen anew: the
//! baseline of all figures of projections.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use events::{ApiCalled, Body, Event};
use ledger::Month;
use nats::{Log, RawFrame, Reader, ReaderConfig};
use sqlx::{Connection as _, PgConnection};
use store::projection::usage_rows::{self, CopyBuffer, UsageRow};

use crate::process::Machine;

/// Frames that are copied in one transaction: about as many events as the projector takes.
const FRAMES_PER_COMMIT: usize = 10;
/// Frames that are asked for at a time.
const FRAMES_PER_READ: usize = 1_000;

/// The table of calls with a primary key on the id and an index by user and time. Frozen: figures of different builds
/// are held against the same thing, but for columns that came later and are null here.
const SCHEMA: &str = r"
DROP SCHEMA IF EXISTS copy_alone CASCADE;
CREATE SCHEMA copy_alone;
SET search_path = copy_alone;
CREATE TABLE api_usage (
    id UUID NOT NULL, user_id UUID NOT NULL, created_at TIMESTAMPTZ NOT NULL, log_seq BIGINT NOT NULL,
    log_idx INTEGER NOT NULL, units INTEGER NOT NULL, response_time_ms INTEGER, request_size BIGINT,
    response_size BIGINT, completed_seq BIGINT, status_code SMALLINT, counted BOOLEAN NOT NULL, category TEXT NOT NULL,
    month_year TEXT NOT NULL, method TEXT, endpoint TEXT NOT NULL, ip_address TEXT, user_agent TEXT, key_id UUID,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX api_usage_user_id_created_at ON api_usage (user_id, created_at);
";

/// Rows a second of COPY alone: the calls from `from_seq` on, `rows` of them, whose buffers are ready before the clock
/// starts.
pub(crate) async fn rate(machine: &Machine, log: &Log, from_seq: u64, rows: usize) -> anyhow::Result<f64> {
    let mut connection = PgConnection::connect(machine.variable("DATABASE_URL")?).await?;
    sqlx::raw_sql(SCHEMA).execute(&mut connection).await?;
    let (mut copied, mut elapsed) = (0, Duration::ZERO);
    let mut reader = Reader::open(log, from_seq, ReaderConfig::default());
    while copied < rows {
        let mut frames = Vec::with_capacity(FRAMES_PER_COMMIT);
        while frames.len() < FRAMES_PER_COMMIT && copied + events_in(&frames) < rows {
            frames.extend(reader.next_batch(FRAMES_PER_READ).await?);
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
        copied += events_in(&frames);
    }
    sqlx::raw_sql("DROP SCHEMA copy_alone CASCADE").execute(&mut connection).await?;
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    let copied = copied as f64;
    Ok(copied / elapsed.as_secs_f64())
}

/// Number of events in these frames.
pub(crate) fn events_in(frames: &[RawFrame]) -> usize {
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
    let personal = called.personal.is_some();
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
        ip_address: personal.then_some(crate::calls::ADDRESS_TEXT),
        key_id: None,
        user_agent: personal.then_some(crate::calls::AGENT),
    })
}
