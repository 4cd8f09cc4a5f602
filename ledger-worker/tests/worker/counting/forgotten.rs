//! Requests of proxies, in frames that the log has stored at times of the test's choice.

use anyhow::Result;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use events::{Body, Event};
use ledger::{Category, UserId};
use ledger_worker::batch::{KnownDataKeys, Parsed, apply_late};
use ledger_worker::{Applier, Batch};
use nats::{FrameHeader, RawFrame};
use sqlx::{Connection, PgConnection};
use store::projection::checkpoint::Checkpoint;
use store::{Schema, connect};
use testkit::Env;
use uuid::Uuid;

use crate::support::call;

fn start() -> DateTime<Utc> {
    "2026-11-05T12:00:00Z".parse().expect("a time")
}

/// A frame with a call of each of these requests, stored at this second and admitted at another.
fn frame(seq: u64, stored_s: i64, admitted_s: i64, requests: &[u128]) -> RawFrame {
    frame_of(seq, seq, (stored_s, admitted_s), requests)
}

/// One whose calls have the ids of those of another frame.
fn frame_of(seq: u64, of_seq: u64, (stored_s, admitted_s): (i64, i64), requests: &[u128]) -> RawFrame {
    let user = UserId::new(Uuid::from_u128(0xa000));
    let encode = |(request, idx): (&u128, u128)| {
        let mut called = call(Category::Analyze);
        (called.request, called.status_code) = (Some(Uuid::from_u128(*request)), None);
        let id = Uuid::from_u128(u128::from(of_seq) << 64 | idx);
        let at = start() + TimeDelta::seconds(admitted_s);
        let mut json = Vec::new();
        events::encode(&Event::by_api(id, user, at, Body::ApiCalled(called)), &mut json);
        String::from_utf8(json).expect("JSON")
    };
    let bodies: Vec<_> = requests.iter().zip(0..).map(encode).collect();
    let body = format!("[{}]", bodies.join(",")).into_bytes();
    let events = u32::try_from(requests.len()).expect("a few");
    let header = FrameHeader::of(Uuid::from_u128(0xbeef), seq, events, &body);
    let (msg_id, time) = (header.msg_id(), start() + TimeDelta::seconds(stored_s));
    RawFrame { seq, time, msg_id, header: Ok(header), body: Bytes::from(body) }
}

async fn apply(applier: &mut Applier, conn: &mut PgConnection, frames: &[RawFrame]) -> Result<()> {
    let last = frames.last().expect("a frame");
    applier.apply(conn, &mut Batch::of(frames, last, &KnownDataKeys::default())).await?;
    Ok(())
}

async fn number(conn: &mut PgConnection, query: &str) -> Result<i64> {
    Ok(sqlx::query_scalar(query).fetch_one(conn).await?)
}

/// By the log's time, whatever clocks say, and rarely.
#[tokio::test]
async fn requests_are_forgotten_after_ten_minutes_of_the_log() -> Result<()> {
    let env = Env::start().await?;
    let mut conn = connect::connect_projector(env.database_url(), Schema::Live).await?;
    let mut applier = Applier::new(Schema::Live, 0, Checkpoint::default());
    for second in 0_i64..1_800 {
        if second % 3 == 0 {
            let seq = u64::try_from(second / 3 + 1)?;
            // One of the clocks is two hours ahead.
            let admitted = if second % 2 == 0 { second } else { second + 7_200 };
            apply(&mut applier, &mut conn, &[frame(seq, second, admitted, &[u128::from(seq)])]).await?;
        }
        if second % 100 == 99 {
            let kept = number(&mut conn, "SELECT count(*) FROM request_claims").await?;
            let of_ten_minutes = second.min(600) / 3;
            assert!((of_ten_minutes..=of_ten_minutes + 4).contains(&kept), "{kept} after {second} s");
        }
    }
    assert_eq!(number(&mut conn, "SELECT count(*) FROM api_usage").await?, 600);
    Ok(())
}

/// Whether a call is one that was there before depends on the two alone, not on what else the log holds or on where it
/// is cut.
#[tokio::test]
async fn what_is_forgotten_does_not_depend_on_the_batches() -> Result<()> {
    let env = Env::start().await?;
    let mut conn = connect::connect_projector(env.database_url(), Schema::Live).await?;
    // Stored, admitted, rows in the end.
    let cases: [(&[(i64, i64)], i64); 6] = [
        (&[(0, 0), (599, 1)], 1),
        (&[(0, 0), (600, 1)], 2),
        (&[(0, 0), (300, 7_200), (301, 1)], 3),
        (&[(0, 7_200), (1, 7_201), (2, 0), (3, 1)], 2),
        (&[(0, 0), (500, 59), (700, 1)], 2),
        (&[(0, 0), (595, 100_000), (599, 1), (601, 2)], 3),
    ];
    for (number_of_case, (calls, rows)) in cases.into_iter().enumerate() {
        let frames: Vec<_> =
            (1..).zip(calls).map(|(seq, (stored, admitted))| frame(seq, *stored, *admitted, &[7])).collect();
        for size in 1..=frames.len() {
            let counted = rows_of(&mut conn, &frames, size).await?;
            assert_eq!(counted, rows, "case {number_of_case}, batches of {size}");
        }
    }
    Ok(())
}

/// Number of rows that these frames leave in batches of this size.
async fn rows_of(conn: &mut PgConnection, frames: &[RawFrame], size: usize) -> Result<i64> {
    sqlx::query("TRUNCATE api_usage, request_claims, monthly_usage_summary, producers")
        .execute(&mut *conn)
        .await?;
    sqlx::query("UPDATE projection_checkpoint SET seq = 0, frame_time = NULL").execute(&mut *conn).await?;
    let mut applier = Applier::new(Schema::Live, 0, Checkpoint::default());
    for batch in frames.chunks(size) {
        apply(&mut applier, conn, batch).await?;
    }
    number(conn, "SELECT count(*) FROM api_usage").await
}

/// An event that left no row, for its call was another's request, is known no better when it comes again: within ten
/// minutes by that request, and later not at all. The recount says the same (`recount::tests`).
#[tokio::test]
async fn an_event_that_left_no_row_comes_again() -> Result<()> {
    let env = Env::start().await?;
    let mut conn = connect::connect_projector(env.database_url(), Schema::Live).await?;
    for (again_s, rows) in [(2, 1), (598, 1), (720, 2)] {
        let frames = [
            frame(1, 0, 0, &[7]),
            frame(2, 1, 1, &[7]),
            frame_of(3, 2, (again_s, 1), &[7]),
            frame_of(4, 2, (again_s + 1, 1), &[7]),
        ];
        for size in 1..=frames.len() {
            let counted = rows_of(&mut conn, &frames, size).await?;
            assert_eq!(counted, rows, "again after {again_s} s, batches of {size}");
        }
    }
    Ok(())
}

/// A call that is applied late is not the request's last one.
#[tokio::test]
async fn a_late_call_leaves_a_newer_claim_as_it_is() -> Result<()> {
    let env = Env::start().await?;
    let mut conn = connect::connect_projector(env.database_url(), Schema::Live).await?;
    let mut applier = Applier::new(Schema::Live, 0, Checkpoint::default());
    // The first frame holds another request; what it should have held comes late.
    let late = frame(1, 0, 0, &[7]);
    apply(&mut applier, &mut conn, &[frame(1, 0, 0, &[8]), frame(2, 70, 70, &[7])]).await?;
    let late = Parsed::one(&late, 0, &KnownDataKeys::default());
    sqlx::query("DELETE FROM api_usage WHERE log_seq = 1").execute(&mut conn).await?;
    let mut tx = conn.begin().await?;
    apply_late(&mut tx, &late).await?;
    tx.commit().await?;
    apply(&mut applier, &mut conn, &[frame(3, 75, 75, &[7])]).await?;
    assert_eq!(number(&mut conn, "SELECT count(*) FROM api_usage").await?, 2);
    let last = "SELECT log_seq FROM request_claims ORDER BY request LIMIT 1";
    assert_eq!(number(&mut conn, last).await?, 2);
    Ok(())
}
