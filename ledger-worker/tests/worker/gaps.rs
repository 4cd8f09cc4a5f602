//! Gaps that an operator may accept, and that reading goes on exactly there.

use anyhow::Result;
use events::GapKind;
use ledger::Category::Other;
use ledger_worker::gaps::{self, AcceptError};
use ledger_worker::rebuild::Finish;
use std::ops::RangeInclusive;
use store::operations::gaps::Gap;

use crate::support::{TestLedger, call};

const STATE: &str = "SELECT state FROM projector_status ORDER BY heartbeat_at DESC LIMIT 1";

impl TestLedger {
    pub(crate) async fn accept_range(&self, seqs: RangeInclusive<u64>) -> Result<Gap, AcceptError> {
        let mut conn = self.env.pool().acquire().await.expect("a connection");
        let by = (&self.env.clock, &self.env.ids);
        gaps::accept(&mut conn, &self.log, &self.publisher, by, seqs, "it burnt").await
    }

    async fn log_status(&self) -> gaps::LogStatus {
        let mut conn = self.env.pool().acquire().await.expect("a connection");
        gaps::status(&mut conn, &self.log).await.expect("the log can be read")
    }
}

#[tokio::test]
async fn only_what_is_lost_is_accepted_and_rebuild_passes_it_too() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.store_frame(1, false).await?;
    ledger.store_frame(2, true).await?;
    ledger.store_frame(3, false).await?;
    ledger.until(STATE, "stopped").await;
    let status = ledger.log_status().await;
    let stop = status.stop.expect("frame 2 is damaged");
    assert_eq!(stop.acceptable().map(|gap| (gap.seqs, gap.kind)), Some((2..=2, GapKind::Damaged)));
    for whole in [1..=2, 2..=3, 3..=3] {
        let refused = ledger.accept_range(whole).await;
        assert!(matches!(refused, Err(AcceptError::Whole { .. })), "{refused:?}");
    }
    let beyond = ledger.accept_range(4..=9).await;
    assert!(matches!(beyond, Err(AcceptError::Beyond { .. })), "{beyond:?}");
    assert_eq!(ledger.accept_range(2..=2).await?.kind, GapKind::Damaged);
    ledger.projected_to(4).await;
    assert_eq!(ledger.number("SELECT sum(total_calls)::bigint FROM monthly_usage_summary").await, 2);
    assert_eq!(ledger.number("SELECT count(*) FROM accepted_gaps").await, 1);
    // The event is in the log and is no dead letter; accepting again changes nothing.
    assert_eq!(ledger.number("SELECT count(*) FROM dead_letters").await, 0);
    ledger.accept_range(2..=2).await?;
    assert_eq!(ledger.number("SELECT count(*) FROM accepted_gaps").await, 1);
    ledger.projected().await;
    assert_eq!(ledger.log_status().await.stop, None);
    assert_eq!(ledger.verified().await?.differences, []);
    assert_eq!(ledger.rebuild().run(&ledger.keys, Finish::Swap).await?.differences, []);
    ledger.publish(&[ledger.own_call(ledger.user(), call(Other))]).await;
    ledger.projected().await;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_jump_of_a_producer_is_accepted_at_the_frame_that_jumps() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.store_frame(1, false).await?;
    ledger.store_frame(4, false).await?;
    ledger.until(STATE, "stopped").await;
    assert!(matches!(ledger.accept_range(1..=1).await, Err(AcceptError::Whole { .. })));
    assert_eq!(ledger.accept_range(2..=2).await?.kind, GapKind::Missing);
    ledger.projected_to(3).await;
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 2, "the frame that jumps is applied");
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_lost_tail_is_accepted_as_a_whole() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.store_frame(1, false).await?;
    ledger.projected().await;
    worker.stop().await;
    ledger.execute("UPDATE projection_checkpoint SET seq = 4, frame_id = 'lost-4'").await;
    let worker = ledger.spawn_worker();
    ledger.until(STATE, "stopped").await;
    let part = ledger.accept_range(3..=4).await;
    assert!(matches!(part, Err(AcceptError::Truncated { from: 2, to: 4 })), "{part:?}");
    assert_eq!(ledger.accept_range(2..=4).await?.kind, GapKind::Truncated);
    ledger.until(STATE, "running").await;
    // The event took the first of the lost sequences.
    ledger.until("SELECT seq::text FROM projection_checkpoint", "2").await;
    ledger.store_frame(2, false).await?;
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 2);
    worker.stop().await;
    Ok(())
}

/// An acceptance takes back one checkpoint, once: a later loss within the same range stops the projector again.
#[tokio::test]
async fn another_loss_in_an_accepted_range_is_accepted_anew() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.store_frame(1, false).await?;
    ledger.projected().await;
    worker.stop().await;
    ledger.execute("UPDATE projection_checkpoint SET seq = 4, frame_id = 'lost-4'").await;
    let worker = ledger.spawn_worker();
    ledger.until(STATE, "stopped").await;
    let first = ledger.accept_range(2..=4).await?;
    ledger.until("SELECT seq::text FROM projection_checkpoint", "2").await;
    ledger.until("SELECT is_spent::text FROM accepted_gaps", "true").await;
    worker.stop().await;
    // The same range is lost once more, with other frames; and then the very same checkpoint.
    for lost in ["again", "lost"] {
        sqlx::query("UPDATE projection_checkpoint SET seq = 4, frame_id = $1 || '-4'")
            .bind(lost)
            .execute(ledger.env.pool())
            .await?;
        let worker = ledger.spawn_worker();
        ledger.until(STATE, "stopped").await;
        assert!(ledger.log_status().await.stop.is_some());
        worker.stop().await;
    }
    let worker = ledger.spawn_worker();
    ledger.until(STATE, "stopped").await;
    let last = ledger.log_status().await.stream.last_seq;
    ledger.accept_range(last + 1..=4).await?;
    ledger.until(STATE, "running").await;
    ledger.projected().await;
    assert_eq!(ledger.log_status().await.stop, None);
    // Accepting the first one again only says so again.
    assert_eq!(ledger.accept_range(2..=4).await?, first);
    assert_eq!(ledger.number("SELECT count(*) FROM accepted_gaps WHERE is_spent").await, 2);
    worker.stop().await;
    Ok(())
}
