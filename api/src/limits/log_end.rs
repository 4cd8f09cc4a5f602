//! The end of the log, whenever the log answers.

use std::time::Duration;

use nats::{Log, LogError};
use tokio::time::sleep;

use crate::facts;

/// Pause between attempts to ask the log how far it is.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The last sequence of the log.
pub(super) async fn last_seq(log: &Log) -> u64 {
    answered(|| log.state()).await.last_seq
}

/// [`facts::settled_seq`]: the last sequence of the log after producers of unknown fate have retired.
pub(super) async fn settled_seq(log: &Log) -> u64 {
    answered(|| facts::settled_seq(log)).await
}

/// Asks until the log answers.
async fn answered<T, F: Future<Output = Result<T, LogError>>>(ask: impl Fn() -> F) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the log does not say how far it is"
                );
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}
