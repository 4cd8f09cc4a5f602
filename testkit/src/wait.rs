//! Waiting for a condition, within a bound.

use std::{
    future::Future,
    panic::Location,
    time::{Duration, Instant},
};

const PAUSE: Duration = Duration::from_millis(10);

/// Asks `condition` again and again until it holds.
///
/// # Panics
/// When it does not hold within `bound`; the message names the caller's line.
#[track_caller]
pub fn wait_until<F, Fut>(bound: Duration, condition: F) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    poll_until(bound, condition, Location::caller())
}

async fn poll_until<F, Fut>(bound: Duration, mut condition: F, caller: &'static Location<'static>)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < bound, "the condition at {caller} did not hold within {bound:?}");
        tokio::time::sleep(PAUSE).await;
    }
}
