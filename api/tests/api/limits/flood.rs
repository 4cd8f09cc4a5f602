//! Refused calls cannot flood the log.

use std::time::Duration;

use anyhow::Result;
use futures_util::StreamExt;
use futures_util::stream;
use testkit::{PATIENCE, World, wait_until};

/// The rest of the million is `api::limits`' unit test; the events are the same however many calls they stand for.
const REFUSALS: usize = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_leave_a_few_events() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("stubborn")?;
    for _ in 0..10 {
        world.call(&user, "/api/analyze").await?.expect(204)?;
    }
    let before = world.api.handle.log.state().await?;
    let refused = stream::iter(0..REFUSALS)
        .map(|_| world.call(&user, "/api/analyze"))
        .buffer_unordered(64)
        .filter(|answer| std::future::ready(answer.as_ref().is_ok_and(|answer| answer.status == 429)))
        .count()
        .await;
    assert_eq!(refused, REFUSALS);
    let pool = world.env.pool().clone();
    let log = world.api.handle.log.clone();
    world.api.stop().await?;
    wait_until(Duration::from_secs(30).min(PATIENCE), || async {
        let counted: Option<i64> = sqlx::query_scalar(
            "SELECT sum(count)::bigint FROM limit_rejections WHERE meter = 'analyze' AND NOT shadow",
        )
        .fetch_one(&pool)
        .await
        .expect("a sum");
        counted == i64::try_from(REFUSALS).ok()
    })
    .await;
    let after = log.state().await?;
    assert!(after.last_seq - before.last_seq <= 60, "{} frames", after.last_seq - before.last_seq);
    assert!(after.bytes - before.bytes <= 100 * 1024, "{} bytes", after.bytes - before.bytes);
    Ok(())
}
