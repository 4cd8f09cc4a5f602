//! A log that is not whole stops the projector, which says why; an accepted gap lets it go on exactly there.

use anyhow::Result;
use events::GapKind;
use ledger::Category::Other;
use nats::FrameHeader;
use store::operations::gaps::{self, Gap};

use crate::support::{TestLedger, call, encoded};

const STATE: &str = "SELECT state FROM projector_status ORDER BY heartbeat_at DESC LIMIT 1";
const REASON: &str = "SELECT reason FROM projector_status ORDER BY heartbeat_at DESC LIMIT 1";
const TOTAL: &str = "SELECT COALESCE(sum(total_calls), 0)::bigint FROM monthly_usage_summary";

impl TestLedger {
    /// A client of another program, with the login of the URL.
    async fn jetstream(&self) -> Result<async_nats::jetstream::Context> {
        Ok(async_nats::jetstream::new(nats::client(self.env.nats_url()).await?))
    }

    /// Stores a frame of one call as another program would: `damage` changes what is sent.
    pub(crate) async fn store_frame(&self, n: u64, damage: bool) -> Result<FrameHeader> {
        let producer = uuid::Uuid::from_u128(0xabc);
        let event = encoded(&self.own_call(self.user(), call(Other)));
        let mut body = [b"[".as_slice(), &event.0, b"]"].concat();
        let header = FrameHeader::of(producer, n, 1, &body);
        if damage {
            body[1] ^= 0x01;
        }
        let jetstream = self.jetstream().await?;
        jetstream.publish_with_headers(self.log.subject(), header.to_headers(), body.into()).await?.await?;
        Ok(header)
    }

    async fn accept(&self, seq: u64, kind: GapKind) -> Result<()> {
        let gap = Gap {
            seq_from: seq,
            seq_to: seq,
            kind,
            reason: "test".to_owned(),
            accepted_at: self.env.clock.now(),
            event_id: self.env.ids.event_id(),
        };
        let mut conn = self.env.pool().acquire().await?;
        assert!(gaps::accept(&mut conn, self.log.stream().as_str(), &gap).await?);
        Ok(())
    }
}

#[tokio::test]
async fn a_damaged_frame_stops_until_it_is_accepted() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.store_frame(1, false).await?;
    ledger.projected().await;
    let header = ledger.store_frame(2, true).await?;
    ledger.until(STATE, "stopped").await;
    let reason = ledger.text(REASON).await;
    for part in [ledger.log.stream().as_str(), "frame 2", &header.producer.to_string()] {
        assert!(reason.contains(part), "{reason:?} does not name {part}");
    }
    ledger.store_frame(3, false).await?;
    assert_eq!(ledger.number("SELECT seq FROM projection_checkpoint").await, 1);
    ledger.accept(2, GapKind::Damaged).await?;
    ledger.projected_to(3).await;
    assert_eq!(ledger.number(TOTAL).await, 2);
    ledger.until(STATE, "running").await;
    worker.stop().await;
    // A restart right behind the gap finds nothing wrong.
    let worker = ledger.spawn_worker();
    ledger.store_frame(4, false).await?;
    ledger.projected_to(4).await;
    assert_eq!(ledger.number(TOTAL).await, 3);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_jump_of_a_producer_stops_and_a_repeated_frame_does_not() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.store_frame(1, false).await?;
    ledger.store_frame(3, false).await?;
    ledger.until(STATE, "stopped").await;
    assert!(ledger.text(REASON).await.contains("frame 3 instead of 2"), "{}", ledger.text(REASON).await);
    assert_eq!(ledger.number(TOTAL).await, 1, "what came before is projected");
    ledger.accept(2, GapKind::Missing).await?;
    ledger.projected_to(2).await;
    assert_eq!(ledger.number(TOTAL).await, 2);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_replaced_stream_is_not_skipped_over() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    ledger.store_frame(1, false).await?;
    ledger.projected().await;
    worker.stop().await;
    ledger.jetstream().await?.delete_stream(ledger.env.stream_name()).await?;
    ledger.log.ensure_stream(1).await?;
    let worker = ledger.spawn_worker();
    ledger.until(STATE, "stopped").await;
    assert!(ledger.text(REASON).await.contains("created at"), "{}", ledger.text(REASON).await);
    worker.stop().await;
    Ok(())
}

/// A copy of the log from before the last frames: they were applied, and their sequences are used again.
#[tokio::test]
async fn a_truncated_stream_stops_and_an_accepted_tail_is_projected_anew() -> Result<()> {
    let ledger = TestLedger::start().await?;
    ledger.store_frame(1, false).await?;
    ledger.store_frame(2, false).await?;
    let worker = ledger.spawn_worker();
    ledger.projected().await;
    worker.stop().await;
    // The database saw three more frames than there are.
    sqlx::query("UPDATE projection_checkpoint SET seq = 5, frame_id = 'lost-5'")
        .execute(ledger.env.pool())
        .await?;
    let worker = ledger.spawn_worker();
    ledger.until(STATE, "stopped").await;
    assert!(ledger.text(REASON).await.contains("3..5"), "{}", ledger.text(REASON).await);
    let gap = Gap {
        seq_from: 3,
        seq_to: 5,
        kind: GapKind::Truncated,
        reason: "restored".to_owned(),
        accepted_at: ledger.env.clock.now(),
        event_id: ledger.env.ids.event_id(),
    };
    let mut conn = ledger.env.pool().acquire().await?;
    gaps::accept(&mut conn, ledger.log.stream().as_str(), &gap).await?;
    drop(conn);
    ledger.until(STATE, "running").await;
    ledger.store_frame(3, false).await?;
    ledger.projected_to(3).await;
    ledger.until("SELECT sum(total_calls)::text FROM monthly_usage_summary", "3").await;
    worker.stop().await;
    Ok(())
}
