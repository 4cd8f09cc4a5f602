//! A request that proxies asked several processes about counts once within a minute.

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use events::{Body, Event, request_hash};
use ledger::Category::Analyze;
use ledger::UserId;
use ledger_worker::rebuild::Finish;
use uuid::Uuid;

use crate::support::{TestLedger, call, minutes};

const TOTALS: &str = "SELECT concat_ws(' ', (SELECT sum(total_calls) FROM monthly_usage_summary),
                                       (SELECT count(*) FROM api_usage))";

impl TestLedger {
    /// A call of a request at this time, recorded by any process.
    fn asked(&self, user: UserId, request: Uuid, at: DateTime<Utc>) -> Event<'static> {
        let mut called = call(Analyze);
        (called.request, called.status_code) = (Some(request), None);
        Event::by_api(self.env.ids.event_id(), user, at, Body::ApiCalled(called))
    }

    /// The same totals wherever they are counted.
    async fn counts_everywhere(&self, totals: &str) -> Result<()> {
        self.projected().await;
        assert_eq!(self.text(TOTALS).await, totals);
        assert_eq!(self.verified().await?.differences, []);
        assert_eq!(self.rebuild().run(&self.keys, Finish::Swap).await?.differences, []);
        assert_eq!(self.text(TOTALS).await, totals, "rebuilt");
        Ok(())
    }
}

fn request(user: UserId, id: &[u8], used_up: u32) -> Uuid {
    request_hash(user, "GET", "/api/analyze", id, used_up)
}

#[tokio::test]
async fn a_request_counts_once_across_processes_and_restarts() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, other) = (ledger.user(), ledger.user());
    let now = ledger.env.clock.now();
    let (first, second) = (request(user, b"a", 0), request(user, b"b", 0));
    // Of two processes in one frame, in another batch, and by a process that was started again.
    ledger.publish(&[ledger.asked(user, first, now), ledger.asked(user, first, now)]).await;
    ledger.projected().await;
    ledger.publish(&[ledger.asked(user, second, now), ledger.asked(user, first, now)]).await;
    ledger.projected().await;
    worker.stop().await;
    let ledger = ledger.reconnected().await?;
    let worker = ledger.spawn_worker();
    ledger.publish(&[ledger.asked(user, first, now), ledger.asked(user, second, now)]).await;
    ledger.counts_everywhere("2 2").await?;
    // Another user's, and one whose repetitions are used up, are others.
    let others =
        [(other, request(other, b"a", 0)), (user, request(user, b"a", 1)), (user, request(user, b"c", 0))];
    ledger.publish(&others.map(|(user, request)| ledger.asked(user, request, now))).await;
    ledger.counts_everywhere("5 5").await?;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_minute_makes_another_call_of_it() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let request = request(user, b"id", 0);
    let now = ledger.env.clock.now();
    // In one frame, and each in a frame of its own; a clock may have stepped back.
    let steps_us = [0, 59_999_999, 60_000_000, 119_999_999, 60_000_001, 120_000_000, 1_000_000];
    let events = steps_us.map(|us| ledger.asked(user, request, now + TimeDelta::microseconds(us)));
    ledger.publish(&events).await;
    ledger.counts_everywhere("4 4").await?;
    let later = |us: i64| ledger.asked(user, request, now + minutes(10) + TimeDelta::microseconds(us));
    for us in steps_us {
        ledger.publish(&[later(us)]).await;
        ledger.projected().await;
    }
    ledger.counts_everywhere("8 8").await?;
    worker.stop().await;
    Ok(())
}

/// One process's clock is two hours ahead: the others' requests are remembered all the same, in the tables as in a
/// rebuild and in what `verify` counts.
#[tokio::test]
async fn a_clock_that_is_ahead_makes_nobody_s_request_forgotten() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let now = ledger.env.clock.now();
    let ahead = now + minutes(120);
    let asked = |id: u8, at| ledger.asked(user, request(user, &[id], 0), at);
    for events in [
        vec![asked(1, now), asked(2, now)],
        vec![asked(3, ahead)],
        vec![asked(1, now), asked(2, ahead)],
        vec![asked(4, ahead), asked(5, now)],
        vec![asked(1, now), asked(2, now), asked(3, ahead), asked(5, now)],
    ] {
        ledger.publish(&events).await;
        ledger.projected().await;
    }
    // The second one's last call was two hours ahead when it came again.
    ledger.counts_everywhere("7 7").await?;
    worker.stop().await;
    Ok(())
}
