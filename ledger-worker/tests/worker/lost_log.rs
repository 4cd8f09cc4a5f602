//! Rows were projected from frames that the log has lost: nothing hangs, nothing is mistaken, and there is a way on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use events::GapKind;
use ledger::Category::Other;
use ledger_worker::dead_letters::{RetryError, retry_all};
use ledger_worker::rebuild::{Finish, RebuildError};
use ledger_worker::verify::VerifyError;
use nats::Stop;
use testkit::{PrivateServers, wait_until};

use crate::support::{BOUND, TestLedger, call, encoded, of_a_later_version, reported};

const STATE: &str = "SELECT state FROM projector_status ORDER BY heartbeat_at DESC LIMIT 1";
const ROWS: &str = "SELECT count(*) FROM api_usage";
const DEAD: &str = "SELECT count(*) FROM dead_letters";
/// Reading a few frames takes much less; what hangs takes for ever.
const SOON: Duration = Duration::from_secs(20);

impl TestLedger {
    /// Answers of verify, rebuild, the count and a retry to a log that is not the one of the checkpoint.
    async fn stops(&self) -> Result<[Stop; 4]> {
        let rebuild = self.rebuild();
        let verify = match tokio::time::timeout(SOON, self.verified()).await? {
            Err(VerifyError::Stopped(stop)) => stop,
            other => panic!("{other:?}"),
        };
        let whole = match tokio::time::timeout(SOON, rebuild.run(&self.keys, Finish::DryRun)).await? {
            Err(RebuildError::Stopped(stop)) => stop,
            other => panic!("{other:?}"),
        };
        Ok([verify, whole, self.count_stops().await?, self.retry_stops().await?])
    }

    async fn count_stops(&self) -> Result<Stop> {
        match tokio::time::timeout(SOON, self.rebuild().summaries(true)).await? {
            Err(RebuildError::Stopped(stop)) => Ok(stop),
            other => anyhow::bail!("{other:?}"),
        }
    }

    async fn retry_stops(&self) -> Result<Stop> {
        let mut conn = self.env.pool().acquire().await?;
        match retry_all(&mut conn, &self.log, &self.keys, None).await {
            Err(RetryError::Stopped(stop)) => Ok(stop),
            other => anyhow::bail!("{other:?}"),
        }
    }

    /// Two calls in one frame, with a dead letter between them.
    async fn publish_with_a_dead_letter(&self) {
        let good = || encoded(&self.own_call(self.user(), call(Other)));
        let events = vec![good(), of_a_later_version(), good()];
        self.publisher.publish_all(events).await.expect("the log takes them");
        self.projected().await;
    }
}

/// A copy of the log as it is now.
async fn keep(servers: &PrivateServers) -> Result<PathBuf> {
    let kept = servers.nats.store().with_extension("copy");
    servers.nats.kill().await;
    copy(servers.nats.store(), &kept)?;
    servers.nats.resume().await?;
    Ok(kept)
}

/// Puts the copy, or nothing, in the place of the log.
async fn restore(servers: &PrivateServers, kept: Option<&Path>) -> Result<()> {
    let store = servers.nats.store();
    servers.nats.kill().await;
    std::fs::remove_dir_all(store)?;
    if let Some(kept) = kept {
        copy(kept, store)?;
    }
    servers.nats.resume().await?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    ensure!(Command::new("cp").arg("-a").arg(from).arg(to).status()?.success(), "the copy failed");
    Ok(())
}

#[tokio::test]
async fn an_older_copy_of_the_log_is_accepted_and_rebuilt() -> Result<()> {
    let servers = PrivateServers::start().await?;
    let ledger = TestLedger::on(&servers).await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    ledger.projected().await;
    worker.stop().await;
    let kept = keep(&servers).await?;
    let ledger = ledger.reconnected().await?;

    // These are projected, and then the log that they are in is gone.
    let worker = ledger.spawn_worker();
    let told = reported(user, "told", now, call(Other));
    ledger.publish(std::slice::from_ref(&told)).await;
    ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    ledger.publish_with_a_dead_letter().await;
    assert_eq!((ledger.number(ROWS).await, ledger.number(DEAD).await), (6, 1));
    worker.stop().await;
    restore(&servers, Some(&kept)).await?;
    let ledger = ledger.reconnected().await?;

    for stop in ledger.stops().await? {
        assert!(matches!(stop, Stop::StreamTruncated { checkpoint: 5, last_seq: 2, .. }), "{stop}");
    }
    // Another frame takes the first of the lost places, and the client tells its call again.
    ledger.publish(&[told]).await;
    let worker = ledger.spawn_worker();
    ledger.until(STATE, "stopped").await;
    assert_eq!(ledger.accept_range(3..=5).await?.kind, GapKind::Truncated);
    ledger.until(STATE, "running").await;
    ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    ledger.until("SELECT seq::text FROM projection_checkpoint", "5").await;
    assert_eq!(ledger.number(DEAD).await, 0, "what stands there now is not what could not be applied");
    assert_eq!(ledger.number(ROWS).await, 7, "the rows of the lost frames are still there");
    assert!(!ledger.verified().await?.differences.is_empty(), "and verify says so");

    let outcome = tokio::time::timeout(SOON, ledger.rebuild().run(&ledger.keys, Finish::Swap)).await??;
    assert!(!outcome.differences.is_empty(), "rebuild lists them");
    assert_eq!(ledger.number(ROWS).await, 4);
    assert_eq!(ledger.verified().await?.differences, []);
    ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    ledger.projected().await;
    assert_eq!(ledger.number(ROWS).await, 5);
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_replaced_log_is_rebuilt_from_and_its_places_are_not_mistaken() -> Result<()> {
    let servers = PrivateServers::start().await?;
    let ledger = TestLedger::on(&servers).await?;
    let worker = ledger.spawn_worker();
    ledger.publish_with_a_dead_letter().await;
    ledger.publish(&[ledger.own_call(ledger.user(), call(Other))]).await;
    ledger.projected().await;
    assert_eq!((ledger.number(ROWS).await, ledger.number(DEAD).await), (3, 1));
    worker.stop().await;
    let jetstream = async_nats::jetstream::new(nats::client(&servers.nats.url()).await?);
    jetstream.delete_stream("LEDGER").await?;
    let ledger = ledger.reconnected().await?;
    // A call stands where the dead letter stood.
    let calls = [(); 2].map(|()| ledger.own_call(ledger.user(), call(Other)));
    ledger.publish(&calls).await;

    let worker = ledger.spawn_worker();
    ledger.until(STATE, "stopped").await;
    let replaced = |stop: &Stop| matches!(stop, Stop::StreamReplaced { .. });
    assert!(replaced(&ledger.count_stops().await?) && replaced(&ledger.retry_stops().await?));
    let verify = tokio::time::timeout(SOON, ledger.verified()).await?;
    assert!(matches!(&verify, Err(VerifyError::Stopped(stop)) if replaced(stop)), "{verify:?}");
    assert_eq!((ledger.number(ROWS).await, ledger.number(DEAD).await), (3, 1), "nothing was applied");

    // The way on that the stop names, though this log is shorter than the one that was projected.
    tokio::time::timeout(SOON, ledger.rebuild().run(&ledger.keys, Finish::Swap)).await??;
    ledger.until(STATE, "running").await;
    assert_eq!((ledger.number(ROWS).await, ledger.number(DEAD).await), (2, 0));
    assert_eq!(ledger.number("SELECT seq FROM projection_checkpoint").await, 1);
    ledger.publish(&[ledger.own_call(ledger.user(), call(Other))]).await;
    ledger.projected().await;
    assert_eq!(ledger.number(ROWS).await, 3);
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

/// It runs all the time, and looks at the log anew when it has found the server again.
#[tokio::test]
async fn a_worker_that_comes_back_to_another_log_stops() -> Result<()> {
    let servers = PrivateServers::start().await?;
    let ledger = TestLedger::on(&servers).await?;
    let worker = ledger.spawn_worker();
    ledger.publish(&[ledger.own_call(ledger.user(), call(Other))]).await;
    ledger.projected().await;
    let kept = keep(&servers).await?;
    let ledger = ledger.reconnected().await?;
    ledger.publish(&[ledger.own_call(ledger.user(), call(Other))]).await;
    ledger.projected().await;

    let reason = "SELECT COALESCE(reason, '') FROM projector_status WHERE state = 'stopped'";
    restore(&servers, Some(&kept)).await?;
    wait_until(BOUND, async || ledger.text(reason).await.contains("2..2")).await;
    restore(&servers, None).await?;
    let ledger = ledger.reconnected().await?;
    for _ in 0..3 {
        ledger.publish(&[ledger.own_call(ledger.user(), call(Other))]).await;
    }
    wait_until(BOUND, async || ledger.text(reason).await.contains("created at")).await;
    assert_eq!(ledger.number(ROWS).await, 2, "nothing of another log was applied");
    assert_eq!(ledger.number("SELECT seq FROM projection_checkpoint").await, 2);
    worker.stop().await;
    Ok(())
}
