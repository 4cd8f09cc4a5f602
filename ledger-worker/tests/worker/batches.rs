//! Whatever is in the log, and however it is cut into batches: the sums are those of the rows, and the tables the same.

mod pipeline;

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use events::{Body, CallCompleted, ClaimsTurned, Event, PeriodClosed, SOURCE_API, SOURCE_WORKER};
use ledger::{Category, Month, UserId};
use ledger_worker::batch::{KnownDataKeys, Parsed, apply_late};
use ledger_worker::{Applier, Batch};
use nats::{FrameHeader, RawFrame};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::{Connection, PgConnection};
use store::projection::checkpoint::Checkpoint;
use store::projection::dead_letters;
use store::{Schema, connect};
use testkit::Env;
use uuid::Uuid;

use crate::support::{call, plan, reported, reset};

/// Everything in the schema that follows from the log; each table's text is compared as a whole.
const TABLES: [&str; 13] = [
    "api_usage",
    "monthly_usage_summary",
    "event_claims",
    "producers",
    "subscriptions",
    "limit_thresholds",
    "closed_periods",
    "statements",
    "statement_adjustments",
    "late_units",
    "dead_letters",
    "request_claims",
    "projection_checkpoint",
];
const VIEWS: [&str; 2] = ["statements", "statement_adjustments"];

const PRODUCERS: usize = 3;
const CHECKPOINT: usize = 12;

#[derive(Debug, Clone)]
enum Op {
    /// A call: user, id (few, so that they repeat), minutes after the base, units, category, counted, reported.
    Call {
        user: u8,
        id: u8,
        at: i64,
        units: u32,
        category: u8,
        counted: bool,
        reported: bool,
    },
    /// A call of a request (few, so that they repeat), so many seconds after the base.
    Asked {
        user: u8,
        id: u8,
        request: u8,
        at_s: i64,
    },
    Reset {
        user: u8,
        id: u8,
        month: u8,
    },
    /// Completes an own call of this user and id, which may not be there.
    Complete {
        user: u8,
        id: u8,
        at: i64,
        server_error: bool,
    },
    Plan {
        user: u8,
        id: u8,
        limit: u64,
        at: i64,
    },
    Close {
        month: u8,
    },
    /// Ends this generation of claims, whether or not it is the current one.
    Turn {
        generation: u8,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let at = 0_i64..4;
    let op = prop_oneof![
        8 => (0_u8..3, 0_u8..12, at.clone(), 1_u32..4, 0_u8..3, prop::bool::weighted(0.8), any::<bool>()).prop_map(
            |(user, id, at, units, category, counted, reported)| Op::Call {
                user, id, at, units, category, counted, reported,
            }
        ),
        4 => (0_u8..2, 0_u8..40, 0_u8..3, prop::sample::select(vec![0, 20, 59, 60, 61, 119, 120, 180]))
            .prop_map(|(user, id, request, at_s)| Op::Asked { user, id, request, at_s }),
        2 => (0_u8..3, 0_u8..3, 0_u8..2).prop_map(|(user, id, month)| Op::Reset { user, id, month }),
        3 => (0_u8..3, 0_u8..12, at.clone(), any::<bool>())
            .prop_map(|(user, id, at, server_error)| Op::Complete { user, id, at, server_error }),
        1 => (0_u8..3, 0_u8..3, 1_u64..9, at).prop_map(|(user, id, limit, at)| Op::Plan { user, id, limit, at }),
        1 => (0_u8..2).prop_map(|month| Op::Close { month }),
        3 => (0_u8..6).prop_map(|generation| Op::Turn { generation }),
    ];
    prop::collection::vec(op, 1..60)
}

/// Two of the four instants lie in October, two in November.
fn instant(at: i64) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 10, 31, 22, 30, 0).unwrap() + TimeDelta::minutes(45 * at)
}

fn month(n: u8) -> Month {
    Month::new(2026, 10 + u32::from(n)).unwrap()
}

fn user(n: u8) -> UserId {
    UserId::new(Uuid::from_u128(0xa000 + u128::from(n)))
}

fn own_id(kind: u128, user: u8, id: u8, at: i64) -> Uuid {
    Uuid::from_u128(kind << 96 | u128::from(user) << 32 | u128::from(id) << 8 | u128::try_from(at).unwrap())
}

fn event(op: &Op) -> Event<'static> {
    match *op {
        Op::Call { user: u, id, at, units, category, counted, reported: by_client } => {
            let mut called = call(Category::ALL[usize::from(category)]);
            (called.units, called.counted, called.response_time_ms) = (units, counted, Some(units * 10));
            if by_client {
                return reported(user(u), &format!("e{id}"), instant(at), called);
            }
            // The same id always has the same time, as ids of our own do.
            called.status_code = None;
            Event::by_api(own_id(1, u, id, at), user(u), instant(at), Body::ApiCalled(called))
        }
        Op::Asked { user: u, id, request, at_s } => {
            let mut called = call(Category::Analyze);
            called.request = Some(own_id(6, u, request, 0));
            let at = instant(2) + TimeDelta::seconds(at_s);
            Event::by_api(own_id(7 + u128::from(request), u, id, at_s), user(u), at, Body::ApiCalled(called))
        }
        Op::Reset { user: u, id, month: m } => reset(own_id(2, u, id, 0), user(u), month(m), instant(3)),
        Op::Complete { user: u, id, at, server_error } => {
            let body = CallCompleted {
                call_id: own_id(1, u, id, at),
                call_time: instant(at),
                status_code: if server_error { 502 } else { 200 },
                response_time_ms: Some(7),
                response_size: None,
                counted: !server_error,
            };
            Event::own(SOURCE_API, own_id(3, u, id, at), Some(user(u)), instant(3), Body::CallCompleted(body))
        }
        Op::Plan { user: u, id, limit, at } => {
            plan(own_id(4, u, id, 0), user(u), (Some(limit), None), instant(at))
        }
        Op::Close { month: m } => {
            let body = Body::PeriodClosed(PeriodClosed { month: month(m) });
            Event::own(SOURCE_WORKER, own_id(5, m, 0, 0), None, instant(3), body)
        }
        Op::Turn { generation } => {
            let body = Body::ClaimsTurned(ClaimsTurned { generation: generation.into() });
            Event::own(SOURCE_WORKER, own_id(20, generation, 0, 0), None, instant(3), body)
        }
    }
}

/// Time at which the log has stored this frame: far enough apart that requests are forgotten between them.
fn stored_at(seq: u64) -> DateTime<Utc> {
    instant(3) + TimeDelta::minutes(4) * i32::try_from(seq).unwrap()
}

/// Frames of up to three events each, turns of claims in frames of their own, as the worker publishes them; those that
/// `unknown` names are of a version that this program does not know.
fn frames(ops: &[Op], unknown: impl Fn(usize) -> bool) -> Vec<RawFrame> {
    let producer = Uuid::from_u128(0xbeef);
    let mut index = 0..;
    (1_u64..)
        .zip(
            ops.chunk_by(|a, b| !matches!((a, b), (Op::Turn { .. }, _) | (_, Op::Turn { .. })))
                .flat_map(|ops| ops.chunks(3)),
        )
        .map(|(seq, ops)| {
            let encode = |op| {
                let mut json = Vec::new();
                events::encode(&event(op), &mut json);
                let json = String::from_utf8(json).unwrap();
                if unknown(index.next().unwrap()) { json.replacen(".v1\"", ".v9\"", 1) } else { json }
            };
            let body = format!("[{}]", ops.iter().map(encode).collect::<Vec<_>>().join(",")).into_bytes();
            let header = FrameHeader::of(producer, seq, u32::try_from(ops.len()).unwrap(), &body);
            let msg_id = header.msg_id();
            RawFrame { seq, time: stored_at(seq), msg_id, header: Ok(header), body: Bytes::from(body) }
        })
        .collect()
}

async fn project(conn: &mut PgConnection, frames: &[RawFrame], cuts: &[Range<usize>]) -> Vec<String> {
    empty(conn).await;
    let mut applier = Applier::new(Schema::Live, 0, Checkpoint::default());
    for cut in cuts {
        let mut batch = batch(&frames[cut.clone()]);
        applier.apply(conn, &mut batch).await.unwrap();
    }
    dump(conn).await
}

/// These frames, none of which holds anything sealed.
fn batch(frames: &[RawFrame]) -> Batch {
    Batch::of(frames, frames.last().unwrap(), &KnownDataKeys::default())
}

/// Takes the projection back to where nothing is in the log.
async fn empty(conn: &mut PgConnection) {
    let written = TABLES.iter().filter(|table| **table != "projection_checkpoint" && !VIEWS.contains(table));
    let written = written.copied().collect::<Vec<_>>().join(", ");
    let written = written.replace("event_claims", "event_claims_0, event_claims_1, event_claims_2");
    sqlx::query(&format!("TRUNCATE pending_thresholds, {written}")).execute(&mut *conn).await.unwrap();
    let reset = "UPDATE projection_checkpoint
                 SET seq = 0, events = 0, claims_generation = 0, claims_table = 0, claims_since = NULL,
                     claims_turned_seq = 0, claims_turned_before_seq = 0";
    sqlx::query(reset).execute(&mut *conn).await.unwrap();
}

async fn dump(conn: &mut PgConnection) -> Vec<String> {
    let mut dump = Vec::new();
    for table in TABLES {
        // When requests are deleted that are forgotten depends on the batches, and changes nothing.
        let rows = match table {
            "request_claims" => {
                "(SELECT c.* FROM request_claims c, projection_checkpoint p
                  WHERE c.stored_at > p.frame_time - interval '10 minutes')"
            }
            table => table,
        };
        let query =
            format!("SELECT COALESCE(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM {rows} t");
        let text: String = sqlx::query_scalar(&query).fetch_one(&mut *conn).await.unwrap();
        dump.push(format!("{table}:\n{text}"));
    }
    dump
}

/// The differences between sums and rows: none.
async fn differences(conn: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "WITH rows AS (
             SELECT u.user_id, u.month_year, sum(u.units) AS total,
                    COALESCE(sum(u.units) FILTER (WHERE category = 'analyze'), 0) AS analyze_units,
                    sum(response_time_ms) AS time_ms, count(response_time_ms) AS timed
             FROM api_usage u
             LEFT JOIN monthly_usage_summary s ON s.user_id = u.user_id AND s.month_year = u.month_year
             WHERE u.counted AND (u.log_seq, u.log_idx) > (COALESCE(s.reset_seq, 0), COALESCE(s.reset_idx, 0))
             GROUP BY 1, 2),
         sums AS (
             SELECT user_id, month_year, total_calls AS total, analyze_calls AS analyze_units,
                    total_response_time_ms AS time_ms, timed_calls AS timed
             FROM monthly_usage_summary WHERE total_calls > 0)
         SELECT 'summary ' || d::text FROM (
             (SELECT user_id, month_year, total, analyze_units, time_ms, timed FROM rows EXCEPT SELECT * FROM sums)
             UNION ALL (SELECT * FROM sums
                        EXCEPT SELECT user_id, month_year, total, analyze_units, time_ms, timed FROM rows)
         ) d",
    )
    .fetch_all(conn)
    .await
    .unwrap()
}

fn cuts(frames: usize, sizes: &[usize]) -> Vec<Range<usize>> {
    let mut cuts = Vec::new();
    let mut start = 0;
    for size in sizes.iter().cycle() {
        if start == frames {
            return cuts;
        }
        let end = (start + size).min(frames);
        cuts.push(start..end);
        start = end;
    }
    cuts
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[test]
fn sums_are_those_of_the_rows_however_the_log_is_cut() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let env = runtime.block_on(Env::start()).unwrap();
    let mut conn = runtime.block_on(connect::connect_projector(env.database_url(), Schema::Live)).unwrap();
    let conn = std::cell::RefCell::new(&mut conn);
    let strategy = (ops(), prop::collection::vec(1_usize..8, 1..5));
    runner(24)
        .run(&strategy, |(ops, sizes)| {
            let frames = frames(&ops, |_| false);
            let conn = &mut **conn.borrow_mut();
            runtime.block_on(async {
                let one_by_one = project(conn, &frames, &cuts(frames.len(), &[1])).await;
                prop_assert_eq!(differences(conn).await, Vec::<String>::new());
                let at_once = project(conn, &frames, &cuts(frames.len(), &[frames.len()])).await;
                prop_assert_eq!(differences(conn).await, Vec::<String>::new());
                prop_assert_eq!(&one_by_one, &at_once);
                let in_batches = project(conn, &frames, &cuts(frames.len(), &sizes)).await;
                prop_assert_eq!(&one_by_one, &in_batches);
                Ok(())
            })
        })
        .unwrap();
    runtime.block_on(async move { drop(env) });
}

/// An event of a request that is forgotten comes again, between two calls that are one without it.
#[tokio::test]
async fn a_call_that_is_stored_already_claims_no_request_again() {
    let env = Env::start().await.unwrap();
    let mut conn = connect::connect_projector(env.database_url(), Schema::Live).await.unwrap();
    let asked = |id, at_s| Op::Asked { user: 1, id, request: 0, at_s };
    let other = |id| Op::Call { user: 0, id, at: 0, units: 1, category: 0, counted: true, reported: true };
    let mut ops = vec![asked(29, 59), other(1), other(2)];
    ops.extend((3..15).map(other));
    ops.extend([asked(10, 120), asked(29, 59), asked(38, 119)]);
    let frames = frames(&ops, |_| false);
    let one_by_one = project(&mut conn, &frames, &cuts(frames.len(), &[1])).await;
    assert_eq!(differences(&mut conn).await, Vec::<String>::new());
    assert_eq!(one_by_one, project(&mut conn, &frames, &cuts(frames.len(), &[frames.len()])).await);
}

/// Each event has its own id, and nothing depends on a row that is not there yet.
fn independent(ops: Vec<Op>) -> Vec<Op> {
    let mut seen = HashSet::new();
    ops.into_iter()
        .filter(|op| !matches!(op, Op::Complete { .. } | Op::Close { .. } | Op::Asked { .. }))
        .filter(|op| seen.insert((event(op).source.into_owned(), event(op).id.into_owned())))
        .collect()
}

/// Events that were dead letters and are applied late, in any order, leave the tables as if they had been applied in
/// theirs: a late reset does not drop newer calls, a late call does not outlive a newer reset, a late plan does not
/// undo a newer one.
#[test]
fn a_late_retry_undoes_nothing_newer() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let env = runtime.block_on(Env::start()).unwrap();
    let mut conn = runtime.block_on(connect::connect_projector(env.database_url(), Schema::Live)).unwrap();
    let conn = std::cell::RefCell::new(&mut conn);
    let strategy = (ops().prop_map(independent), prop::collection::vec(any::<bool>(), 60), any::<bool>());
    runner(24)
        .run(&strategy, |(ops, late, backwards)| {
            prop_assume!(!ops.is_empty());
            // A turn that comes late is another one.
            let is_late = |index: usize| late[index] && !matches!(ops[index], Op::Turn { .. });
            let (whole, partly) = (frames(&ops, |_| false), frames(&ops, is_late));
            let conn = &mut **conn.borrow_mut();
            runtime.block_on(async {
                let every = cuts(whole.len(), &[4]);
                let mut in_order = project(conn, &whole, &every).await;
                project(conn, &partly, &every).await;
                let mut letters = dead_letters::list(conn, None, None, 100).await.unwrap();
                if backwards {
                    letters.reverse();
                }
                for letter in letters {
                    let frame = whole.iter().find(|frame| frame.seq == letter.position.seq).unwrap();
                    let mut tx = conn.begin().await.unwrap();
                    assert!(dead_letters::remove(&mut tx, letter.position).await.unwrap());
                    apply_late(&mut tx, &Parsed::one(frame, letter.position.idx, &KnownDataKeys::default()))
                        .await
                        .unwrap();
                    tx.commit().await.unwrap();
                }
                prop_assert_eq!(differences(conn).await, Vec::<String>::new());
                let mut late = dump(conn).await;
                // The bodies differ, so their checksums do. The first claim of a generation is another one.
                for dump in [&mut in_order, &mut late] {
                    dump.remove(CHECKPOINT);
                    dump.remove(PRODUCERS);
                }
                prop_assert_eq!(in_order, late);
                Ok(())
            })
        })
        .unwrap();
    runtime.block_on(async move { drop(env) });
}
