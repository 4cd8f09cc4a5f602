//! Dead letters: what can't be applied is set aside with its position; the rest goes on.

use anyhow::Result;
use events::Event;
use ledger::Category::{Analyze, Other};
use ledger::Month;
use ledger_worker::dead_letters::{RetryReport, retry_all, retry_one};
use ledger_worker::rebuild::Finish;
use nats::EncodedEvent;
use store::{Position, Schema, connect};
use uuid::Uuid;

use crate::support::{TestLedger, call, encoded, reported, reset};

const LETTERS: &str =
    "SELECT COALESCE(string_agg(concat_ws(' ', log_idx, reason), ', ' ORDER BY log_seq, log_idx), '')
                       FROM dead_letters";

/// The event as a later version, which this program does not know.
fn of_version_9(event: &Event<'_>) -> EncodedEvent {
    let json = String::from_utf8(encoded(event).0.to_vec()).expect("JSON is UTF-8");
    EncodedEvent::from(json.replacen(".v1\"", ".v9\"", 1).into_bytes())
}

#[tokio::test]
async fn one_bad_event_never_hides_the_others() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let user = ledger.user();
    let good = || encoded(&ledger.own_call(user, call(Other)));
    let now = ledger.env.clock.now();
    // A table that refuses one of the rows: the event must be found among the others.
    sqlx::query("ALTER TABLE api_usage ADD CHECK (endpoint <> '/api/refused')")
        .execute(ledger.env.pool())
        .await?;
    let mut refused = call(Other);
    refused.endpoint = "/api/refused".into();
    let events = vec![
        good(),
        EncodedEvent::from(b"{\"specversion\":\"1.0\"}".to_vec()),
        good(),
        of_version_9(&ledger.own_call(user, call(Analyze))),
        encoded(&reported(user, "r1", now, refused)),
        good(),
    ];
    ledger.publisher.publish_all(events).await?;
    ledger.projected().await;
    assert_eq!(ledger.text(LETTERS).await, "1 undecodable, 3 unknown, 4 refused");
    assert_eq!(ledger.number("SELECT total_calls FROM monthly_usage_summary").await, 3);
    assert_eq!(ledger.number("SELECT count(*) FROM event_claims").await, 0, "a dead letter claims nothing");
    // After the cause was mended a retry applies it, once.
    sqlx::query("ALTER TABLE api_usage DROP CONSTRAINT api_usage_endpoint_check")
        .execute(ledger.env.pool())
        .await?;
    let mut conn = connect(ledger.env.database_url(), Schema::Live).await?;
    let report = retry_all(&mut conn, &ledger.log, &ledger.keys, None).await?;
    assert_eq!(report, RetryReport { applied: 1, still_dead: 2 });
    assert_eq!(ledger.number("SELECT total_calls FROM monthly_usage_summary").await, 4);
    let letter = Position { seq: ledger.log.state().await?.last_seq, idx: 4 };
    assert_eq!(retry_one(&mut conn, &ledger.log, &ledger.keys, letter).await?, None);
    assert_eq!(
        retry_one(&mut conn, &ledger.log, &ledger.keys, Position { idx: 3, ..letter }).await?,
        Some(false)
    );
    worker.stop().await;
    Ok(())
}

/// A later build knows what an earlier one did not, and applies it beside what comes.
#[tokio::test]
async fn what_an_earlier_build_did_not_know_is_applied_beside_the_projector() -> Result<()> {
    const LETTERS: usize = 300;
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    ledger.execute("ALTER TABLE api_usage ADD CHECK (endpoint <> '/api/refused')").await;
    let refused = (0..LETTERS).map(|n| {
        let mut refused = call(Other);
        refused.endpoint = "/api/refused".into();
        reported(user, &format!("r{n}"), now, refused)
    });
    let mut events: Vec<EncodedEvent> = refused.map(|event| encoded(&event)).collect();
    events.push(of_version_9(&ledger.own_call(user, call(Analyze))));
    ledger.publisher.publish_all(events).await?;
    ledger.projected().await;
    worker.stop().await;
    ledger
        .execute(
            "ALTER TABLE api_usage DROP CONSTRAINT api_usage_endpoint_check;
             UPDATE dead_letters SET reason = 'unknown'",
        )
        .await;
    // One of them cannot be applied now, so that they are not all done before the call by mere speed.
    let mut first = ledger.env.pool().begin().await?;
    sqlx::query("SELECT FROM dead_letters WHERE log_idx = 150 FOR UPDATE").execute(&mut *first).await?;
    ledger.publish(&[ledger.own_call(user, call(Analyze))]).await;
    let worker = ledger.spawn_worker();
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT analyze_calls FROM monthly_usage_summary").await, 1);
    let left = ledger.number("SELECT count(*) FROM dead_letters").await;
    assert!(left >= 150, "the call did not wait for the letters: {left} were left");
    first.rollback().await?;
    ledger.until(LETTERS_LEFT, "1").await;
    assert_eq!(
        ledger.text("SELECT reason || ' ' || event_type FROM dead_letters").await,
        "unknown usage.api_called.v9"
    );
    assert_eq!(ledger.number("SELECT total_calls FROM monthly_usage_summary").await, 301);
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

const LETTERS_LEFT: &str = "SELECT count(*)::text FROM dead_letters";

/// A call that is applied late counts for its API key as it would have in its place: not if its month was reset since.
#[tokio::test]
async fn what_comes_late_counts_for_its_key_as_in_its_place() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    let keyed = |endpoint: &'static str, units: u32| {
        let mut called = call(Other);
        called.key_id = Some(Uuid::from_u128(1));
        (called.endpoint, called.units) = (endpoint.into(), units);
        called
    };
    let start_anew = || reset(ledger.env.ids.event_id(), user, Month::of(now), now);
    let mut conn = connect(ledger.env.database_url(), Schema::Live).await?;
    ledger.execute("ALTER TABLE api_usage ADD CHECK (endpoint <> '/api/refused')").await;
    for event in [
        reported(user, "before", now, keyed("/api/refused", 1)),
        ledger.own_call(user, keyed("/x", 2)),
        start_anew(),
        reported(user, "after", now, keyed("/api/refused", 4)),
        ledger.own_call(user, keyed("/x", 8)),
    ] {
        ledger.publish(&[event]).await;
    }
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT units FROM monthly_key_usage").await, 8);
    ledger.execute("ALTER TABLE api_usage DROP CONSTRAINT api_usage_endpoint_check").await;
    let report = retry_all(&mut conn, &ledger.log, &ledger.keys, None).await?;
    assert_eq!(report, RetryReport { applied: 2, still_dead: 0 });
    assert_eq!(ledger.number("SELECT units FROM monthly_key_usage").await, 12);
    assert_eq!(ledger.number("SELECT total_calls FROM monthly_usage_summary").await, 12);
    assert_eq!(ledger.verified().await?.differences, []);
    // And a reset that comes late takes what was before it.
    let wide = "ALTER TABLE monthly_usage_summary ADD CONSTRAINT reset_once CHECK (reset_seq <= 3)";
    ledger.execute(wide).await;
    ledger.publish(&[start_anew()]).await;
    ledger.publish(&[ledger.own_call(user, keyed("/x", 16))]).await;
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT units FROM monthly_key_usage").await, 28);
    ledger.execute("ALTER TABLE monthly_usage_summary DROP CONSTRAINT reset_once").await;
    let report = retry_all(&mut conn, &ledger.log, &ledger.keys, None).await?;
    assert_eq!(report, RetryReport { applied: 1, still_dead: 0 });
    assert_eq!(ledger.number("SELECT units FROM monthly_key_usage").await, 16);
    assert_eq!(ledger.verified().await?.differences, []);
    assert_eq!(ledger.rebuild().run(&ledger.keys, Finish::DryRun).await?.differences, []);
    worker.stop().await;
    Ok(())
}
