//! Workers that end at any moment, and two of them at once.

use anyhow::Result;
use ledger::Category::Other;
use ledger_worker::batch::{ApplyError, KnownDataKeys};
use ledger_worker::{Applier, Batch};
use nats::{Reader, ReaderConfig};
use sqlx::Connection;
use store::projection::checkpoint;
use store::{Schema, connect};

use crate::support::{TestLedger, call, reported};

#[tokio::test]
async fn one_of_two_workers_projects_and_the_other_takes_over() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let first = ledger.spawn_worker();
    ledger.until("SELECT string_agg(state, ' ' ORDER BY state) FROM projector_status", "running").await;
    let second = ledger.spawn_worker();
    let states = "SELECT string_agg(state, ' ' ORDER BY state) FROM projector_status";
    ledger.until(states, "running standby").await;
    let user = ledger.user();
    for _ in 0..20 {
        ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    }
    ledger.projected().await;
    first.kill().await;
    for _ in 0..20 {
        ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    }
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT total_calls FROM monthly_usage_summary").await, 40);
    second.stop().await;
    Ok(())
}

#[tokio::test]
async fn kills_at_any_moment_lose_and_double_nothing() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let user = ledger.user();
    let now = ledger.env.clock.now();
    for round in 0..8_u64 {
        let worker = ledger.spawn_worker();
        for n in 0..10 {
            let id = format!("{round}-{n}");
            ledger
                .publish(&[ledger.own_call(user, call(Other)), reported(user, &id, now, call(Other))])
                .await;
        }
        // Whatever it is doing by then.
        tokio::time::sleep(std::time::Duration::from_millis(round * 23)).await;
        worker.kill().await;
    }
    let worker = ledger.spawn_worker();
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT total_calls FROM monthly_usage_summary").await, 160);
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 160);
    assert_eq!(ledger.number("SELECT sum(units)::bigint FROM api_usage").await, 160);
    worker.stop().await;
    Ok(())
}

/// A projector that lost its lock without noticing cannot apply a batch again.
#[tokio::test]
async fn a_checkpoint_that_moved_aborts_the_batch() -> Result<()> {
    let ledger = TestLedger::start().await?;
    ledger.publish(&[ledger.own_call(ledger.user(), call(Other))]).await;
    let frames = Reader::open(&ledger.log, 1, ReaderConfig::default()).next_batch(100).await?;
    let mut batch = Batch::of(&frames, &frames[0], &KnownDataKeys::default());
    let mut conn = connect::connect_projector(ledger.env.database_url(), Schema::Live).await?;
    let start = checkpoint::read(&mut conn, 0).await?;
    let mut first = Applier::new(Schema::Live, 0, start.clone());
    let mut second = Applier::new(Schema::Live, 0, start);
    first.apply(&mut conn, &mut batch).await?;
    let refused = second.apply(&mut conn, &mut batch).await;
    assert!(
        matches!(refused, Err(ApplyError::Store(store::Error::CheckpointMoved { expected_seq: 0, .. }))),
        "{refused:?}"
    );
    conn.ping().await?;
    assert_eq!(ledger.number("SELECT total_calls FROM monthly_usage_summary").await, 1);
    Ok(())
}
