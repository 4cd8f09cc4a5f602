//! A count in little memory: the same whatever it may use, beside a worker that goes on.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use events::{Body, CallCompleted, Event};
use ledger::Category::{Analyze, Other};
use ledger::{Month, UserId};
use ledger_worker::rebuild::{Compared, Progress, Rebuild, Room};
use ledger_worker::verify::{ScratchError, VerifyError, verify};
use nats::EncodedEvent;
use store::operations::mend::{self, Mend};
use store::operations::recount::Sums;
use testkit::wait_until;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::support::{TestLedger, call, encoded, minutes, reported, reset};

/// A long tail: the user is drawn by the square of a number.
const USERS: u64 = 50_000;
const TAIL: u64 = 120_000;
/// One who calls all the time, through a proxy.
const BUSY_CALLS: u64 = 12_000;
const HANDED: usize = 10_000;
const PATIENCE: Duration = Duration::from_mins(4);

/// All in one part; some sixty parts and the busy user divided; a thousand parts, all of them divided.
const MEMORY: [u64; 3] = [1 << 40, 2 << 20, 48 << 10];

impl TestLedger {
    async fn verified_in(&self, memory_bytes: u64) -> Result<Compared, VerifyError> {
        let room = Room { memory_bytes, ..Room::default() };
        verify(&Rebuild { room, ..self.rebuild() }, None).await
    }

    async fn publish_many(&self, events: impl Iterator<Item = Event<'static>>) {
        let mut events = events.map(|event| encoded(&event)).peekable();
        while events.peek().is_some() {
            let some: Vec<EncodedEvent> = events.by_ref().take(HANDED).collect();
            self.publisher.publish_all(some).await.expect("the log takes the events");
        }
    }

    async fn projected_patiently(&self) {
        let last = self.log.state().await.expect("the log answers").last_seq;
        wait_until(PATIENCE, || async {
            self.number("SELECT seq FROM projection_checkpoint").await.unsigned_abs() >= last
        })
        .await;
    }
}

fn tail_user(n: u64) -> UserId {
    // A sequence that is spread evenly over the numbers below 2^16, squared.
    let drawn = n.wrapping_mul(40_503) % 65_536;
    UserId::new(Uuid::from_u128(0xa11 << 96 | u128::from(drawn * drawn * USERS / (65_536 * 65_536))))
}

/// Calls of the long tail in two months, every fiftieth reported twice.
fn tail(now: DateTime<Utc>) -> impl Iterator<Item = Event<'static>> {
    (0..TAIL).map(move |n| {
        let number = if n % 50 == 49 { n - 1 } else { n };
        let at = now - TimeDelta::minutes(i64::try_from(number % 50_000).unwrap());
        let mut called = call(if number % 3 == 0 { Analyze } else { Other });
        called.counted = number % 7 != 0;
        reported(tail_user(number), &format!("e{number}"), at, called)
    })
}

/// Calls of one user: of requests that come twice, open at first and completed then, and a reset among them.
fn busy(ledger: &TestLedger, user: UserId, now: DateTime<Utc>) -> impl Iterator<Item = Event<'static>> {
    let own_id =
        |kind: u128, n: u64| Uuid::from_u128(0x0193 << 112 | kind << 80 | 7 << 76 | 2 << 62 | u128::from(n));
    let month = Month::of(now);
    let middle = reset(ledger.env.ids.event_id(), user, month, now);
    (0..BUSY_CALLS).flat_map(move |n| {
        let at = now - TimeDelta::milliseconds(i64::try_from(n).unwrap());
        let mut called = call(Analyze);
        (called.status_code, called.response_time_ms) = (None, None);
        // Every tenth is of the request before it.
        let request = if n % 10 == 9 { n - 1 } else { n };
        called.request = (n % 2 == 0 || n % 10 == 9).then(|| own_id(7, request));
        let event = Event::by_api(own_id(1, n), user, at, Body::ApiCalled(called));
        let completed = CallCompleted {
            call_id: own_id(1, n),
            call_time: at,
            status_code: if n % 4 == 0 { 502 } else { 200 },
            response_time_ms: Some(7),
            response_size: None,
            counted: n % 4 != 0,
        };
        // The other call of a request is not there to be completed.
        let is_same = n % 10 == 9;
        let completion = Event::by_api(own_id(3, n), user, now, Body::CallCompleted(completed));
        let reset = (n == BUSY_CALLS / 2).then(|| middle.clone());
        [Some(event), (!is_same).then_some(completion), reset].into_iter().flatten()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_is_the_same_in_any_memory() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let busy_user = ledger.publish_all_kinds().await;
    let now = ledger.env.clock.now();
    ledger.publish_many(tail(now)).await;
    ledger.publish_many(busy(&ledger, busy_user, now)).await;
    ledger.projected_patiently().await;
    for memory_bytes in MEMORY {
        let compared = ledger.verified_in(memory_bytes).await?;
        assert_eq!(compared.differences, [], "{memory_bytes}");
        assert!(compared.events > TAIL + BUSY_CALLS, "{}", compared.events);
    }
    ledger
        .execute(
            "UPDATE monthly_usage_summary SET analyze_calls = analyze_calls + 1, total_calls = total_calls + 1
             WHERE get_byte(uuid_send(user_id), 15) = 7;
             DELETE FROM monthly_usage_summary WHERE get_byte(uuid_send(user_id), 15) = 8;
             UPDATE api_usage SET log_idx = log_idx + 1
             WHERE (user_id, created_at) IN (SELECT user_id, max(created_at) FROM api_usage GROUP BY 1 LIMIT 50)",
        )
        .await;
    let found = ledger.verified_in(MEMORY[0]).await?;
    let tables: Vec<_> = found.differences.iter().map(|table| (table.name.as_str(), table.more)).collect();
    assert_eq!(tables, [("monthly_usage_summary", true), ("api_usage", true)]);
    for memory_bytes in &MEMORY[1..] {
        assert_eq!(ledger.verified_in(*memory_bytes).await?, found, "{memory_bytes}");
    }
    worker.stop().await;
    Ok(())
}

/// What is mended is what differed: what is projected meanwhile stays.
#[tokio::test(flavor = "multi_thread")]
async fn sums_are_mended_while_calls_keep_coming() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let users: Vec<UserId> = (0..40).map(|_| ledger.user()).collect();
    let calls = || users.iter().map(|user| ledger.own_call(*user, call(Other))).collect::<Vec<_>>();
    ledger.publish(&calls()).await;
    ledger
        .publish(&[reset(
            ledger.env.ids.event_id(),
            users[5],
            Month::of(ledger.env.clock.now()),
            ledger.env.clock.now(),
        )])
        .await;
    ledger.projected().await;
    ledger
        .execute(
            "UPDATE monthly_usage_summary SET other_calls = other_calls + 3, total_calls = total_calls + 3,
                 monthly_api_limit = 7
             WHERE get_byte(uuid_send(user_id), 15) % 3 = 0;
             DELETE FROM monthly_usage_summary WHERE get_byte(uuid_send(user_id), 15) % 3 = 1;
             UPDATE monthly_usage_summary SET reset_seq = 0, reset_idx = 0;
             INSERT INTO monthly_usage_summary (user_id, month_year, last_updated, other_calls, total_calls)
             VALUES (gen_random_uuid(), '2026-01', now(), 5, 5)",
        )
        .await;
    // More comes when the tables were read, and is projected before they are mended.
    let more = |progress| {
        if progress == Progress::Step("comparing") {
            tokio::task::block_in_place(|| {
                Handle::current().block_on(async {
                    ledger.publish(&calls()).await;
                    ledger.projected().await;
                });
            });
        }
    };
    let compared = Rebuild { progress: &more, ..ledger.rebuild() }.summaries(false).await?;
    assert_eq!(compared.differences.len(), 1, "{compared:?}");
    assert_eq!(ledger.verified().await?.differences, []);
    assert_eq!(ledger.number("SELECT count(*) FROM monthly_usage_summary").await, 40);
    worker.stop().await;
    Ok(())
}

/// A month that was reset since it was read is right by that.
#[tokio::test]
async fn a_month_that_was_reset_since_is_not_mended() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    ledger.projected().await;
    let mut conn = ledger.env.pool().acquire().await?;
    let sums = Sums { units: [0, 0, 1], last_updated: now, ..Sums::default() };
    let wrong = Mend {
        user,
        month: Month::of(now),
        expected: Some(sums),
        found: Some(Sums { units: [0, 0, 3], ..sums }),
    };
    ledger.publish(&[reset(ledger.env.ids.event_id(), user, Month::of(now), now + minutes(1))]).await;
    ledger.projected().await;
    mend::summaries(&mut conn, &[wrong]).await?;
    drop(conn);
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_change_under_a_count_are_said() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.publish_all_kinds().await;
    let one_goes =
        |progress| {
            if matches!(progress, Progress::At { .. }) {
                tokio::task::block_in_place(|| {
                    Handle::current().block_on(ledger.execute(
                        "DELETE FROM dead_letters WHERE ctid = (SELECT min(ctid) FROM dead_letters)",
                    ));
                });
            }
        };
    let counted = verify(&Rebuild { progress: &one_goes, ..ledger.rebuild() }, None).await;
    assert!(matches!(counted, Err(VerifyError::DeadLettersMoved)), "{counted:?}");
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_directory_that_takes_no_files_is_said() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let room = Room { dir: Some(Path::new("/there/is/no/such")), ..Room::default() };
    let refused = verify(&Rebuild { room, ..ledger.rebuild() }, None).await;
    assert!(matches!(refused, Err(VerifyError::Scratch(ScratchError::Disk { .. }))), "{refused:?}");
    Ok(())
}
