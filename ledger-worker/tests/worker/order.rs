//! Events that depend on the log's order: resets, plan changes, completions.

use anyhow::Result;
use chrono::TimeDelta;
use events::{Body, CallCompleted, Event, SOURCE_API};
use ledger::Category::{Analyze, Other};
use ledger::Month;
use ledger_worker::rebuild::Finish;

use crate::support::{TestLedger, call, minutes, plan, reported, reset};

const SUMMARY: &str = "SELECT concat_ws(' ', total_calls, analyze_calls, monthly_api_limit, analyze_limit)
                       FROM monthly_usage_summary";

#[tokio::test]
async fn a_reset_drops_what_was_counted_before_it() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    let again = reset(ledger.env.ids.event_id(), user, Month::of(now), now);
    let calls =
        |n: usize| -> Vec<Event<'static>> { (0..n).map(|_| ledger.own_call(user, call(Analyze))).collect() };
    ledger.publish(&calls(3)).await;
    ledger.projected().await;
    assert_eq!(ledger.text(SUMMARY).await, "3 3 50 10");
    // In the middle of a batch.
    let mut events = calls(2);
    events.push(again.clone());
    events.extend(calls(4));
    ledger.publish(&events).await;
    ledger.projected().await;
    assert_eq!(ledger.text(SUMMARY).await, "4 4 50 10");
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 9);
    // The same request, retried after a crash.
    ledger.publish(&[again]).await;
    ledger.projected().await;
    assert_eq!(ledger.text(SUMMARY).await, "4 4 50 10");
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_plan_change_sets_the_limits_of_its_months() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    let id = || ledger.env.ids.event_id();
    ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    ledger.projected().await;
    assert_eq!(ledger.text(SUMMARY).await, "1 0 50 10");
    ledger.publish(&[plan(id(), user, (Some(500), None), now)]).await;
    ledger.projected().await;
    assert_eq!(ledger.text(SUMMARY).await, "1 0 500");
    // One that waits for the month's end leaves this month as it is, and is next month's.
    let end = Month::of(now).end();
    ledger.publish(&[plan(id(), user, (Some(7), Some(3)), end)]).await;
    ledger.projected().await;
    assert_eq!(ledger.text(SUMMARY).await, "1 0 500");
    ledger.env.clock.set(end + minutes(1));
    ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    ledger.projected().await;
    let next =
        "SELECT concat_ws(' ', total_calls, monthly_api_limit, analyze_limit) FROM monthly_usage_summary
                ORDER BY month_year DESC LIMIT 1";
    assert_eq!(ledger.text(next).await, "1 7 3");
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_completed_call_takes_its_units_back_if_it_failed() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let mut open = call(Analyze);
    (open.status_code, open.response_time_ms, open.units) = (None, None, 3);
    let calls = [ledger.own_call(user, open.clone()), ledger.own_call(user, open)];
    ledger.publish(&calls).await;
    ledger.projected().await;
    let outcome = |call: &Event<'_>, status_code: u16| {
        let body = CallCompleted {
            call_id: call.row_id().expect("our own id"),
            call_time: call.time,
            status_code,
            response_time_ms: Some(90),
            response_size: Some(1_000),
            counted: status_code < 500,
        };
        let id = ledger.env.ids.event_id();
        Event::own(SOURCE_API, id, Some(user), ledger.env.clock.now(), Body::CallCompleted(body))
    };
    // The first outcome of a call is its outcome.
    let outcomes =
        [outcome(&calls[0], 502), outcome(&calls[1], 200), outcome(&calls[0], 200), outcome(&calls[1], 500)];
    ledger.publish(&outcomes).await;
    ledger.projected().await;
    let summary =
        "SELECT concat_ws(' ', total_calls, analyze_calls, avg_response_time_ms) FROM monthly_usage_summary";
    assert_eq!(ledger.text(summary).await, "3 3 90");
    let rows =
        "SELECT string_agg(concat_ws(' ', status_code, counted, response_size), ', ' ORDER BY status_code)
                FROM api_usage";
    assert_eq!(ledger.text(rows).await, "200 t 1000, 502 f 1000");
    assert_eq!(ledger.number("SELECT count(*) FROM dead_letters").await, 0);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn thresholds_are_told_once_and_again_after_a_reset() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    let crossings = "SELECT COALESCE(string_agg(meter || ' ' || threshold_percent, ', '
                                                ORDER BY meter, threshold_percent), '')
                     FROM limit_thresholds";
    let mut big = call(Analyze);
    big.units = 8;
    ledger.publish(&[ledger.own_call(user, big)]).await;
    ledger.until(crossings, "analyze 80").await;
    ledger.publish(&[ledger.own_call(user, call(Analyze)), ledger.own_call(user, call(Analyze))]).await;
    ledger.until(crossings, "analyze 80, analyze 100").await;
    let told = ledger.log.state().await?.last_seq;
    ledger.publish(&[ledger.own_call(user, call(Analyze))]).await;
    ledger.projected().await;
    ledger.publish(&[reset(ledger.env.ids.event_id(), user, Month::of(now), now)]).await;
    ledger.until(crossings, "").await;
    assert_eq!(ledger.log.state().await?.last_seq, told + 2, "nothing was told twice");
    let mut rest = call(Analyze);
    rest.units = 9;
    ledger.publish(&[ledger.own_call(user, rest)]).await;
    ledger.until(crossings, "analyze 80").await;
    worker.stop().await;
    Ok(())
}

/// A call of the month before comes late; one of the next comes early.
#[tokio::test]
async fn thresholds_of_other_months_than_the_present_are_told() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let now = Month::of(ledger.env.clock.now());
    let mut big = call(Analyze);
    big.units = 8;
    let crossings =
        "SELECT string_agg(month_year || ' ' || meter || ' ' || threshold_percent, ', ' ORDER BY month_year)
                     FROM limit_thresholds";
    ledger.publish(&[reported(user, "late", now.prev().start() + minutes(5), big.clone())]).await;
    ledger.until(crossings, &format!("{} analyze 80", now.prev())).await;
    ledger.publish(&[reported(user, "early", now.next().start() + minutes(5), big)]).await;
    let both = format!("{} analyze 80, {} analyze 80", now.prev(), now.next());
    ledger.until(crossings, &both).await;
    worker.stop().await;
    Ok(())
}

const PENDING: &str = "SELECT count(*)::text FROM pending_thresholds";

/// The worker dies after the commit that reached a threshold, before it tells of it.
#[tokio::test]
async fn a_threshold_is_told_of_by_whoever_comes_after_a_crash() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let mut big = call(Analyze);
    big.units = 8;
    ledger.projected().await;
    // Nobody can look what was told.
    let mut lock = ledger.env.pool().begin().await?;
    sqlx::query("LOCK TABLE limit_thresholds IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await?;
    ledger.publish(&[ledger.own_call(ledger.user(), big)]).await;
    ledger.projected().await;
    worker.kill().await;
    lock.rollback().await?;
    assert_eq!(ledger.number("SELECT count(*) FROM limit_thresholds").await, 0);
    assert_eq!(ledger.text(PENDING).await, "1");
    let worker = ledger.spawn_worker();
    ledger.until("SELECT count(*)::text FROM limit_thresholds", "1").await;
    ledger.until(PENDING, "0").await;
    worker.stop().await;
    Ok(())
}

/// Another plan's limit is reached without another call, also in a month after the one in which the plan began.
#[tokio::test]
async fn a_plan_that_lowers_a_limit_makes_a_threshold() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    let id = || ledger.env.ids.event_id();
    let crossings =
        "SELECT string_agg(meter || ' ' || threshold_percent, ', ' ORDER BY meter, threshold_percent)
                     FROM limit_thresholds";
    let mut big = call(Analyze);
    big.units = 8;
    ledger.publish(&[plan(id(), user, (Some(500), Some(100)), now), ledger.own_call(user, big)]).await;
    ledger.projected().await;
    assert_eq!(ledger.text(PENDING).await, "0");
    ledger.publish(&[plan(id(), user, (Some(500), Some(8)), now - TimeDelta::days(62))]).await;
    ledger.until(crossings, "analyze 80, analyze 100").await;
    ledger.until(PENDING, "0").await;
    // Noted, with nothing to tell: it is forgotten.
    ledger.publish(&[plan(id(), user, (Some(500), Some(9)), now)]).await;
    ledger.projected().await;
    ledger.until(PENDING, "0").await;
    assert_eq!(ledger.text(crossings).await, "analyze 80, analyze 100");
    assert_eq!(ledger.rebuild().run(&ledger.keys, Finish::Swap).await?.differences, []);
    ledger.until(PENDING, "0").await;
    worker.stop().await;
    Ok(())
}
