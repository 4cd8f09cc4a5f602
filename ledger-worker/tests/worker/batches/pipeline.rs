//! Two batches in flight: the tables are as if there had been one after the other, whatever fails or comes in between.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use events::{Body, Event};
use ledger::Category;
use ledger_worker::batch::{ApplyError, Landed, Pipeline};
use ledger_worker::{Applier, Batch};
use nats::RawFrame;
use proptest::prelude::*;
use sqlx::{Connection, PgConnection};
use store::operations::lock_holders::{self, Vigil};
use store::operations::session_locks::Lock;
use store::projection::checkpoint::{self, Checkpoint};
use store::{Schema, connect};
use testkit::{Env, wait_until};
use uuid::Uuid;

use super::{Op, batch, cuts, differences, dump, empty, frames, ops, project, runner};
use crate::support::{BOUND, TestLedger, call, reported};

const HOLDER: Uuid = Uuid::from_u128(0x5ec0);

async fn main_of(env: &Env) -> PgConnection {
    connect::connect_projector(env.database_url(), Schema::Live).await.unwrap()
}

async fn second_of(env: &Env) -> PgConnection {
    connect::connect_second(env.database_url(), Schema::Live, HOLDER).await.unwrap()
}

/// A pipeline of two, from the beginning of the log on.
async fn pipeline(env: &Env) -> Pipeline {
    let mut pipeline =
        Pipeline::new(main_of(env).await, Applier::new(Schema::Live, 0, Checkpoint::default()));
    pipeline.add(second_of(env).await);
    // Longer than a busy machine takes for the batch before.
    pipeline.staged_for(Duration::from_mins(1))
}

async fn land(pipeline: &mut Pipeline) -> Result<Landed, ApplyError> {
    let flown = pipeline.next().await;
    pipeline.settle(flown).await
}

/// Applies all batches, and answers which were written ahead.
async fn land_all(pipeline: &mut Pipeline, batches: Vec<Batch>) -> Vec<bool> {
    let mut ahead = Vec::new();
    for batch in batches {
        while !pipeline.is_idle() && !pipeline.fits(&batch) {
            ahead.push(land(pipeline).await.unwrap().applied.is_ahead);
        }
        pipeline.start(Box::new(batch));
    }
    while !pipeline.is_idle() {
        ahead.push(land(pipeline).await.unwrap().applied.is_ahead);
    }
    ahead
}

/// A call that a client reports, of its own user and month unless said otherwise.
fn reported_call(id: u8) -> Op {
    Op::Call { user: 0, id, at: 0, units: 1, category: 0, counted: true, reported: true }
}

/// A batch for each frame.
fn each(frames: &[RawFrame]) -> Vec<Batch> {
    frames.chunks(1).map(batch).collect()
}

async fn count(conn: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(conn).await.unwrap()
}

const UNITS: &str = "SELECT COALESCE(sum(total_calls), 0)::bigint FROM monthly_usage_summary";
/// Second sessions of this database that have written something and wait.
const STAGED: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND application_name LIKE 'usage-ledger second %' AND state = 'idle in transaction'
    AND backend_xid IS NOT NULL AND query LIKE 'COPY api_usage%'";
const SECONDS_AT_WORK: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND application_name LIKE 'usage-ledger second %' AND backend_xid IS NOT NULL";

/// Waits until a second session has written a batch ahead.
async fn staged(env: &Env) {
    wait_until(BOUND, || async { count(&mut env.pool().acquire().await.unwrap(), STAGED).await == 1 }).await;
}

/// Waits until a batch waits for the checkpoint's row, which somebody else has.
async fn at_the_checkpoint(env: &Env) {
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND wait_event_type = 'Lock' AND query LIKE '%projection_checkpoint%FOR UPDATE%'";
    wait_until(BOUND, || async { count(&mut env.pool().acquire().await.unwrap(), waits).await == 1 }).await;
}

/// Ids that seldom repeat: neighbours can be in flight together.
fn spread(ops: Vec<Op>) -> Vec<Op> {
    let ops = ops.into_iter().enumerate();
    ops.map(|(index, op)| match op {
        Op::Call { user, at, units, category, counted, reported, .. } if index % 4 != 0 => {
            let id = u8::try_from(100 + index).unwrap();
            Op::Call { user, id, at, units, category, counted, reported }
        }
        op => op,
    })
    .collect()
}

#[test]
fn the_tables_are_the_same_with_two_in_flight_however_the_log_is_cut() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let env = runtime.block_on(Env::start()).unwrap();
    let conn = RefCell::new(runtime.block_on(main_of(&env)));
    let ahead = Cell::new(0);
    let strategy = (ops().prop_map(spread), prop::collection::vec(1_usize..4, 1..5));
    runner(32)
        .run(&strategy, |(ops, sizes)| {
            let frames = frames(&ops, |_| false);
            let cuts = cuts(frames.len(), &sizes);
            let conn = &mut *conn.borrow_mut();
            runtime.block_on(async {
                let alone = project(conn, &frames, &cuts).await;
                empty(conn).await;
                let batches = cuts.iter().map(|cut| batch(&frames[cut.clone()])).collect();
                let flown = land_all(&mut pipeline(&env).await, batches).await;
                ahead.set(ahead.get() + flown.iter().filter(|is_ahead| **is_ahead).count());
                prop_assert_eq!(differences(conn).await, Vec::<String>::new());
                prop_assert_eq!(alone, dump(conn).await);
                Ok(())
            })
        })
        .unwrap();
    assert!(ahead.get() > 3, "only {} batches were in flight with another", ahead.get());
    runtime.block_on(async move { drop(env) });
}

#[tokio::test]
async fn what_two_neighbours_have_in_common_counts_once() {
    let env = Env::start().await.unwrap();
    let (a, b, c) = (reported_call(1), reported_call(2), reported_call(3));
    // The second frame has an id of the first, at another time, and the third one of the first only.
    let again = Op::Call { user: 0, id: 2, at: 1, units: 1, category: 0, counted: true, reported: true };
    let ops = [a.clone(), b.clone(), b, again, c.clone(), c, a.clone(), reported_call(4), a];
    let mut pipeline = pipeline(&env).await;
    let ahead = land_all(&mut pipeline, each(&frames(&ops, |_| false))).await;
    assert_eq!(ahead, [false, false, true]);
    assert_eq!(count(pipeline.main().unwrap(), UNITS).await, 4);
}

/// Neither a month's end nor a reset nor a turn of claims is written ahead, and nothing behind a turn.
#[tokio::test]
async fn what_depends_on_the_batch_before_waits_for_its_turn() {
    let env = Env::start().await.unwrap();
    let mut all = vec![reported_call(1), reported_call(2), reported_call(3)];
    all.extend([reported_call(4), Op::Reset { user: 0, id: 0, month: 0 }, reported_call(5)]);
    all.extend([reported_call(6), Op::Close { month: 0 }, reported_call(7)]);
    all.extend([reported_call(8), reported_call(9), reported_call(10)]);
    all.push(Op::Turn { generation: 0 });
    all.extend([reported_call(11), reported_call(1), reported_call(12)]);
    let frames = frames(&all, |_| false);
    let mut main = main_of(&env).await;
    let alone = project(&mut main, &frames, &cuts(frames.len(), &[1])).await;
    empty(&mut main).await;
    let ahead = land_all(&mut pipeline(&env).await, each(&frames)).await;
    assert_eq!(ahead, [false, false, false, true, false, false]);
    assert_eq!(alone, dump(&mut main).await);
}

#[tokio::test]
async fn a_refused_value_is_found_in_either_batch() {
    let env = Env::start().await.unwrap();
    let mut main = main_of(&env).await;
    sqlx::query("ALTER TABLE api_usage ADD CHECK (units <> 7)").execute(&mut main).await.unwrap();
    let refused = |id| Op::Call { user: 1, id, at: 1, units: 7, category: 0, counted: true, reported: false };
    let good = (1..=9).map(reported_call);
    let mut ops: Vec<Op> = good.collect();
    for at in [1, 3] {
        ops[at] = refused(u8::try_from(at).unwrap());
        let frames = frames(&ops, |_| false);
        let alone = project(&mut main, &frames, &cuts(frames.len(), &[1])).await;
        empty(&mut main).await;
        let mut pipeline = pipeline(&env).await;
        land_all(&mut pipeline, each(&frames)).await;
        assert_eq!(count(&mut main, "SELECT count(*) FROM dead_letters").await, if at == 1 { 1 } else { 2 });
        assert_eq!(alone, dump(&mut main).await);
    }
    // Only what follows from the rows is refused.
    empty(&mut main).await;
    sqlx::query("ALTER TABLE monthly_usage_summary ADD CHECK (total_calls < 5)")
        .execute(&mut main)
        .await
        .unwrap();
    let ops: Vec<Op> = (1..=9).map(reported_call).collect();
    let frames = frames(&ops, |_| false);
    let alone = project(&mut main, &frames, &cuts(frames.len(), &[1])).await;
    empty(&mut main).await;
    land_all(&mut pipeline(&env).await, each(&frames)).await;
    assert_eq!(count(&mut main, "SELECT count(*) FROM dead_letters").await, 5);
    assert_eq!(alone, dump(&mut main).await);
}

/// Another worker moves the checkpoint while the next batch is written already: nothing of either stays.
#[tokio::test]
async fn what_was_written_ahead_is_undone_when_the_batch_before_fails() {
    let env = Env::start().await.unwrap();
    let frames = frames(&(1..=6).map(reported_call).collect::<Vec<_>>(), |_| false);
    let [first, then] = <[Batch; 2]>::try_from(each(&frames)).unwrap();
    let mut other = main_of(&env).await;
    // The month's partition is there: nobody waits for it.
    project(&mut other, &frames, &cuts(frames.len(), &[1])).await;
    empty(&mut other).await;
    let mut pipeline = pipeline(&env).await;
    let mut moving = other.begin().await.unwrap();
    checkpoint::lock(&mut moving, 0).await.unwrap();
    pipeline.start(Box::new(first));
    assert!(pipeline.fits(&then));
    pipeline.start(Box::new(then));
    staged(&env).await;
    sqlx::query("UPDATE projection_checkpoint SET seq = 1").execute(&mut *moving).await.unwrap();
    moving.commit().await.unwrap();
    let failed = land(&mut pipeline).await;
    assert!(
        matches!(failed, Err(ApplyError::Store(store::Error::CheckpointMoved { expected_seq: 0, .. }))),
        "{failed:?}"
    );
    assert!(pipeline.is_idle());
    assert_eq!(count(&mut other, SECONDS_AT_WORK).await, 0);
    assert_eq!(count(&mut other, "SELECT count(*) FROM api_usage").await, 0);
    // The connection that has the lock is of use.
    let mut main = pipeline.into_main().unwrap();
    let mut applier = Applier::new(Schema::Live, 0, checkpoint::read(&mut main, 0).await.unwrap());
    applier.apply(&mut main, &mut batch(&frames[1..])).await.unwrap();
    assert_eq!(count(&mut main, UNITS).await, 3);
}

/// Somebody has the checkpoint's row and waits for an id that a batch has claimed ahead; the batch before waits for
/// him.
#[tokio::test]
async fn a_batch_that_was_written_ahead_gives_way() {
    let env = Env::start().await.unwrap();
    let frames = frames(&(1..=6).map(reported_call).collect::<Vec<_>>(), |_| false);
    let [first, then] = <[Batch; 2]>::try_from(each(&frames)).unwrap();
    let mut other = main_of(&env).await;
    project(&mut other, &frames, &cuts(frames.len(), &[1])).await;
    let claim = then.segments[0].prepared.claims[0].0;
    empty(&mut other).await;
    let mut pipeline = pipeline(&env).await.staged_for(Duration::from_secs(1));
    let mut circle = other.begin().await.unwrap();
    checkpoint::lock(&mut circle, 0).await.unwrap();
    pipeline.start(Box::new(first));
    pipeline.start(Box::new(then));
    staged(&env).await;
    let insert = sqlx::query("INSERT INTO event_claims_0 (id, log_seq) VALUES ($1, 9)").bind(claim);
    let waiting = async {
        insert.execute(&mut *circle).await.unwrap();
        circle.rollback().await.unwrap();
    };
    let landing = async { [land(&mut pipeline).await.unwrap(), land(&mut pipeline).await.unwrap()] };
    let ((), landed) =
        tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(waiting, landing) })
            .await
            .unwrap();
    assert_eq!(landed.map(|landed| landed.applied.is_ahead), [false, false]);
    assert_eq!(count(&mut other, UNITS).await, 6);
}

/// Whoever applies something out of the log's order waits for what is written ahead, and then nothing is.
#[tokio::test]
async fn who_has_the_checkpoint_for_himself_meets_no_batch_half_written() {
    let env = Env::start().await.unwrap();
    let frames = frames(&(1..=6).map(reported_call).collect::<Vec<_>>(), |_| false);
    let [first, then] = <[Batch; 2]>::try_from(each(&frames)).unwrap();
    let (mut other, mut alone) = (main_of(&env).await, main_of(&env).await);
    project(&mut other, &frames, &cuts(frames.len(), &[1])).await;
    empty(&mut other).await;
    let mut pipeline = pipeline(&env).await;
    let mut holding = other.begin().await.unwrap();
    checkpoint::lock(&mut holding, 0).await.unwrap();
    pipeline.start(Box::new(first));
    pipeline.start(Box::new(then));
    staged(&env).await;
    // Or it would stand behind whoever waits for the one that waits for it.
    at_the_checkpoint(&env).await;
    let late = async {
        let mut tx = alone.begin().await.unwrap();
        checkpoint::lock_alone(&mut tx).await.unwrap();
        let seq = checkpoint::read(&mut tx, 0).await.unwrap().seq;
        tx.rollback().await.unwrap();
        seq
    };
    let waits = "SELECT count(*) FROM pg_locks WHERE mode = 'ExclusiveLock' AND NOT granted
                 AND relation = 'projection_checkpoint'::regclass";
    let landing = async {
        wait_until(BOUND, || async { count(&mut env.pool().acquire().await.unwrap(), waits).await == 1 })
            .await;
        holding.rollback().await.unwrap();
        [land(&mut pipeline).await.unwrap(), land(&mut pipeline).await.unwrap()]
    };
    let (seq, landed) = tokio::join!(late, landing);
    assert_eq!(landed.map(|landed| landed.applied.is_ahead), [false, true]);
    assert_eq!(seq, 2);
}

/// A process that stands still holds what it has written ahead, until the session that has its lock is ended.
#[tokio::test]
async fn both_sessions_of_a_silent_worker_are_ended() {
    let env = Env::start().await.unwrap();
    let (mut first, mut second, mut next) = (main_of(&env).await, second_of(&env).await, main_of(&env).await);
    let lock = Lock::Projector(0);
    let taking = lock_holders::try_take(&mut first, lock, HOLDER, &mut Vigil::default()).await;
    assert!(matches!(taking, Ok(lock_holders::Attempt::Taken(_))), "{taking:?}");
    let mut tx = second.begin().await.unwrap();
    checkpoint::share(&mut tx).await.unwrap();
    sqlx::query("UPDATE lock_holders SET heartbeat_at = now() - interval '1 minute'")
        .execute(&mut next)
        .await
        .unwrap();
    let asking = tokio::sync::Mutex::new((next, Vigil::default()));
    wait_until(BOUND, || async {
        let (next, vigil) = &mut *asking.lock().await;
        let asked = lock_holders::try_take(next, lock, Uuid::from_u128(7), vigil).await.unwrap();
        matches!(asked, lock_holders::Attempt::Taken(_))
    })
    .await;
    let seconds = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                   AND application_name LIKE 'usage-ledger second %'";
    wait_until(BOUND, || async { count(&mut env.pool().acquire().await.unwrap(), seconds).await == 0 }).await;
    assert!(tx.commit().await.is_err());
}

/// Workers that are killed with two batches in flight, again and again, lose and double nothing.
#[tokio::test]
async fn kills_with_two_in_flight_lose_and_double_nothing() {
    const FRAMES: i64 = 90;
    const EVENTS: i64 = 200;
    const REPEATED_AFTER: i64 = 5;
    let ledger = TestLedger::start().await.unwrap();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    for frame in 0..FRAMES {
        // Every other one is a client's, and the first of each frame was in another, some batches before.
        let events = (0..EVENTS).map(|n| match n % 2 {
            0 => {
                let id =
                    if n == 0 { format!("{}-2", frame - REPEATED_AFTER) } else { format!("{frame}-{n}") };
                reported(user, &id, now, call(Category::Other))
            }
            _ => ledger.own_call(user, call(Category::Other)),
        });
        let events: Vec<Event<'_>> = events.collect();
        assert!(events.iter().all(|event| matches!(event.body, Body::ApiCalled(_))));
        ledger.publish(&events).await;
    }
    let small = |config: &mut ledger_worker::WorkerConfig| config.max_batch_events = 400;
    let seq = "SELECT seq FROM projection_checkpoint";
    let (mut kills, mut in_flight) = (0, 0);
    while kills < 5 && ledger.number(seq).await < FRAMES - 10 {
        let worker = ledger.spawn_worker_with(small);
        let is_at_work = Cell::new(false);
        wait_until(BOUND, || async {
            is_at_work.set(ledger.number(SECONDS_AT_WORK).await == 1);
            is_at_work.get() || ledger.number(seq).await >= FRAMES - 10
        })
        .await;
        worker.kill().await;
        kills += 1;
        in_flight += usize::from(is_at_work.get());
    }
    assert!(in_flight > 0, "nothing was killed with two in flight");
    let worker = ledger.spawn_worker_with(small);
    ledger.projected().await;
    let expected = FRAMES * EVENTS - (FRAMES - REPEATED_AFTER);
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, expected);
    assert_eq!(ledger.number(UNITS).await, expected);
    assert_eq!(ledger.number("SELECT events FROM projection_checkpoint").await, FRAMES * EVENTS);
    worker.stop().await;
}
