//! A rebuild of a million events, killed half-way and started again, while calls keep coming and figures are read.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use ledger::Category::{Analyze, Other};
use ledger::{Month, UserId};
use ledger_worker::rebuild::{Compared, Finish, Progress, Rebuild, RebuildError};
use nats::EncodedEvent;
use sqlx::{Connection, PgConnection};
use testkit::wait_until;
use tokio::time::{Interval, MissedTickBehavior};

use crate::support::{TestLedger, call, encoded};

const EVENTS: u64 = 1_000_000;
/// So many are handed to the publisher at a time; it makes frames of a thousand of them.
const HANDED: u64 = 10_000;
const USERS: u64 = 50;
/// Those who call all the time, each waiting for its answer before its next call.
const CALLERS: u64 = 4;
/// Pause of each between its calls, and of the reader between its reads, so that they leave a machine of two cores
/// something to rebuild with.
const CALL_EVERY: Duration = Duration::from_millis(10);
const READ_EVERY: Duration = Duration::from_millis(10);
const ROWS_EVERY_READS: u64 = 10;
/// A machine that does much else needs this long, at most, for any one step.
const PATIENCE: Duration = Duration::from_mins(5);

/// The calls that the log acknowledged, by user.
type Answered = BTreeMap<UserId, u64>;

#[tokio::test(flavor = "multi_thread")]
async fn a_million_events_are_rebuilt_while_calls_keep_coming() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let users: Vec<UserId> = (0..USERS).map(|_| ledger.user()).collect();
    sqlx::query(
        "INSERT INTO public.users (user_id, external_id, created_at, updated_at)
         VALUES ($1, 'reader', now(), now())",
    )
    .bind(users[0].get())
    .execute(ledger.env.pool())
    .await?;
    let mut answered = publish_a_million(&ledger, &users).await;
    let last = ledger.log.state().await?.last_seq;
    wait_until(PATIENCE, || async { ledger.checkpoint().await >= last }).await;

    let stop = AtomicBool::new(false);
    let rebuilding = async {
        let outcome = kill_half_way_and_resume(&ledger, last).await;
        stop.store(true, Ordering::Release);
        outcome
    };
    let calling = join_all((0..CALLERS).map(|_| keep_calling(&ledger, &users, &stop)));
    let (outcome, called, reads) =
        tokio::join!(rebuilding, calling, read_all_the_time(&ledger, users[0], &stop));
    let outcome = outcome?;
    assert_eq!(outcome.differences, []);
    assert!(reads? > 100, "it was read while the tables were filled and exchanged");
    for (user, calls) in called.into_iter().flatten() {
        *answered.entry(user).or_default() += calls;
    }
    let total: u64 = answered.values().sum();
    assert!(total > EVENTS + 100, "calls kept coming: {total}");

    let last = ledger.log.state().await?.last_seq;
    wait_until(PATIENCE, || async { ledger.checkpoint().await >= last }).await;
    for query in [
        "SELECT user_id, sum(total_calls)::bigint FROM monthly_usage_summary GROUP BY user_id",
        "SELECT user_id, count(*) FROM api_usage GROUP BY user_id",
    ] {
        assert_eq!(counted(&ledger, query).await?, answered, "{query}");
    }
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

impl TestLedger {
    async fn checkpoint(&self) -> u64 {
        self.number("SELECT seq FROM projection_checkpoint").await.unsigned_abs()
    }

    fn encoded_call(&self, user: UserId, n: u64) -> EncodedEvent {
        encoded(&self.own_call(user, call(if n.is_multiple_of(3) { Analyze } else { Other })))
    }
}

async fn publish_a_million(ledger: &TestLedger, users: &[UserId]) -> Answered {
    let mut answered = Answered::new();
    let mut n = 0;
    while n < EVENTS {
        let events = (n..n + HANDED)
            .map(|n| {
                let user = users[usize::try_from(n % USERS).unwrap()];
                *answered.entry(user).or_default() += 1;
                ledger.encoded_call(user, n)
            })
            .collect();
        ledger.publisher.publish_all(events).await.expect("the log takes the events");
        n += HANDED;
    }
    answered
}

/// Calls one after the other, as a client does that waits for its answer.
async fn keep_calling(ledger: &TestLedger, users: &[UserId], stop: &AtomicBool) -> Answered {
    let mut answered = Answered::new();
    let mut pace = paced(CALL_EVERY);
    for (n, user) in (0..).zip(users.iter().cycle()) {
        pace.tick().await;
        if stop.load(Ordering::Acquire) {
            break;
        }
        ledger.publisher.publish(ledger.encoded_call(*user, n)).await.expect("the log takes the call");
        *answered.entry(*user).or_default() += 1;
    }
    answered
}

/// The rebuild is given up like one that is killed: at whatever it was doing when half of the log was behind it.
async fn kill_half_way_and_resume(ledger: &TestLedger, last: u64) -> Result<Compared> {
    let (at, half) = (AtomicU64::new(0), last / 2);
    let note = |progress| {
        if let Progress::At { seq, .. } = progress {
            at.store(seq, Ordering::Release);
        }
    };
    let rebuild = Rebuild { progress: &note, ..ledger.rebuild() };
    tokio::select! {
        outcome = rebuild.run(&ledger.keys, Finish::Swap) => panic!("it ended before it was killed: {outcome:?}"),
        () = wait_until(PATIENCE, || async { at.load(Ordering::Acquire) >= half }) => {}
    }
    let killed_at = at.load(Ordering::Acquire);
    assert!(half <= killed_at && killed_at < last, "killed at {killed_at} of {last}");
    let resumed = Mutex::new(None);
    let note = |progress| {
        if let Progress::Resumed(seq) = progress {
            *resumed.lock().expect("no panic") = Some(seq);
        }
    };
    let rebuild = Rebuild { progress: &note, ..ledger.rebuild() };
    let until = tokio::time::Instant::now() + PATIENCE;
    let outcome = loop {
        match rebuild.run(&ledger.keys, Finish::Swap).await {
            // The server has not noticed yet that the other one is gone.
            Err(RebuildError::Busy) if tokio::time::Instant::now() < until => {}
            other => break other?,
        }
    };
    let resumed = resumed.into_inner()?;
    assert!(resumed.is_some_and(|seq| seq >= killed_at), "it went on at {resumed:?}, not behind {killed_at}");
    assert!(outcome.events > EVENTS / 4, "the other half was left to read: {}", outcome.events);
    Ok(outcome)
}

/// Reads through a connection of its own. In one snapshot calls and sums agree, and no figure ever goes back.
async fn read_all_the_time(ledger: &TestLedger, user: UserId, stop: &AtomicBool) -> Result<u64> {
    let mut conn = PgConnection::connect(ledger.env.database_url()).await?;
    let (mut reads, mut before, mut seen) = (0_u64, 0, 0);
    let mut pace = paced(READ_EVERY);
    while !stop.load(Ordering::Acquire) {
        pace.tick().await;
        let mut tx = conn.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let summed =
            figure(&mut tx, "SELECT COALESCE(sum(total_calls), 0)::bigint FROM monthly_usage_summary")
                .await?;
        // A million rows are not counted in a moment; between two counts the sums are looked at many times.
        let counted = if reads.is_multiple_of(ROWS_EVERY_READS) {
            figure(&mut tx, "SELECT count(*) FROM api_usage").await?
        } else {
            summed
        };
        tx.rollback().await?;
        assert_eq!(counted, summed, "of one snapshot");
        assert!(summed >= before, "{summed} after {before}");
        // What the user sees, each statement by itself.
        let month = Month::of(ledger.env.clock.now());
        let summary = store::read::stats::month_usage(&mut conn, user, month).await?.total;
        let stats: i64 = sqlx::query_scalar("SELECT total_calls FROM get_user_usage_stats($1)")
            .bind(user.get())
            .fetch_one(&mut conn)
            .await?;
        let stats = stats.unsigned_abs();
        assert!(seen <= summary && summary <= stats, "{summary}, then {stats}, after {seen}");
        (before, seen) = (summed, stats);
        reads += 1;
    }
    conn.close().await?;
    Ok(reads)
}

async fn figure(conn: &mut PgConnection, query: &'static str) -> Result<i64> {
    Ok(sqlx::query_scalar(query).fetch_one(conn).await?)
}

fn paced(period: Duration) -> Interval {
    let mut pace = tokio::time::interval(period);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

async fn counted(ledger: &TestLedger, query: &'static str) -> Result<Answered> {
    let rows: Vec<(uuid::Uuid, i64)> = sqlx::query_as(query).fetch_all(ledger.env.pool()).await?;
    Ok(rows.into_iter().map(|(user, calls)| (UserId::new(user), calls.unsigned_abs())).collect())
}
