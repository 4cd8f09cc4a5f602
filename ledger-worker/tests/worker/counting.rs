//! Every event counts once, however often and wherever it is in the log.

mod claims;
mod forgotten;
mod parts;
mod requests;
pub(crate) mod rows;

use crate::support::{TestLedger, call, minutes, plan, reported};
use anyhow::Result;
use chrono::{TimeZone, Utc};
use ledger::Category::{Analyze, Auth, Other};

#[tokio::test]
async fn a_call_shows_in_rows_and_summary() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let mut failed = call(Other);
    (failed.counted, failed.status_code) = (false, Some(503));
    let mut big = call(Analyze);
    (big.units, big.response_time_ms) = (7, Some(60));
    let events = [call(Auth), big, failed].map(|called| ledger.own_call(user, called));
    ledger.publish(&events).await;
    ledger.projected().await;
    let summary =
        "SELECT concat_ws(' ', total_calls, analyze_calls, auth_calls, other_calls, avg_response_time_ms,
                       monthly_api_limit, analyze_limit, usage_percentage) FROM monthly_usage_summary";
    assert_eq!(ledger.text(summary).await, "8 7 1 0 50 50 10 16.0");
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 3);
    let sums =
        "SELECT concat_ws(' ', sum(units) FILTER (WHERE counted), count(response_time_ms)) FROM api_usage";
    assert_eq!(ledger.text(sums).await, "8 3");
    assert_eq!(ledger.number("SELECT count(*) FROM usage_hourly").await, 0, "hours are compacted later");
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn the_same_event_counts_once() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, other) = (ledger.user(), ledger.user());
    let end = Utc.with_ymd_and_hms(2026, 10, 31, 23, 59, 59).unwrap();
    let event = |who, time| reported(who, "e1", time, call(Other));
    // Twice in one frame, and with another time and in another month.
    ledger.publish(&[event(user, end), event(user, end), event(user, end + minutes(1))]).await;
    ledger.projected().await;
    // Again in another batch, beside new ones; and with another user's name on it.
    let fresh = reported(user, "e2", end, call(Other));
    ledger.publish(&[event(user, end - minutes(50_000)), fresh, event(other, end)]).await;
    ledger.projected().await;
    worker.stop().await;
    // And after a restart.
    let worker = ledger.spawn_worker();
    ledger.publish(&[event(other, end + minutes(9)), event(user, end)]).await;
    ledger.projected().await;
    worker.stop().await;
    let rows = "SELECT string_agg(month_year || ' ' || total_calls, ', ' ORDER BY total_calls)
                FROM monthly_usage_summary";
    assert_eq!(ledger.text(rows).await, "2026-10 1, 2026-10 2");
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 3);
    assert_eq!(ledger.number("SELECT count(*) FROM event_claims").await, 3);
    Ok(())
}

/// A request that is retried under its idempotency key after a crash publishes its event once more.
#[tokio::test]
async fn our_own_event_published_again_counts_once() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let event = ledger.own_call(user, call(Analyze));
    ledger.publish(std::slice::from_ref(&event)).await;
    ledger.projected().await;
    let next = ledger.own_call(user, call(Other));
    ledger.publish(&[next.clone(), event, next]).await;
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT total_calls FROM monthly_usage_summary").await, 2);
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 2);
    worker.stop().await;
    Ok(())
}

/// A plan may sell as much as a column holds; thresholds are still compared.
#[tokio::test]
async fn calls_under_the_largest_limit_count() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let most = u64::try_from(i64::MAX)?;
    let id = ledger.env.ids.event_id();
    ledger.publish(&[plan(id, user, (Some(most), Some(most)), ledger.env.clock.now())]).await;
    ledger.publish(&[ledger.own_call(user, call(Analyze))]).await;
    ledger.projected().await;
    worker.stop().await;
    assert_eq!(ledger.number("SELECT count(*) FROM dead_letters").await, 0);
    assert_eq!(ledger.number("SELECT total_calls FROM monthly_usage_summary").await, 1);
    let mut conn = ledger.env.pool().acquire().await?;
    ledger
        .execute("INSERT INTO pending_thresholds SELECT user_id, month_year, 0 FROM monthly_usage_summary")
        .await;
    let pending = store::projection::thresholds::pending(&mut conn, None, 10).await?;
    assert_eq!((pending.len(), pending[0].unrecorded.len()), (1, 0));
    Ok(())
}
