//! Dead letters: what can't be applied is set aside with its position; the rest goes on.

use anyhow::Result;
use events::Event;
use ledger::Category::{Analyze, Other};
use ledger_worker::dead_letters::{RetryReport, retry_all, retry_one};
use nats::EncodedEvent;
use store::{Position, Schema, connect};

use crate::support::{TestLedger, call, encoded, reported};

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
