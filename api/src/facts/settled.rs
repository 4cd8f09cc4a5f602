//! The log's end, as far as events of unknown fate are concerned.

use std::time::Duration;

use nats::{Log, LogError};
use tokio::time::sleep;

/// A frame's fate is told just before its producer retires and its connection is closed; nothing of it reaches the log
/// this long after, counted from when the server is seen to work.
const RETIREMENT: Duration = Duration::from_secs(5);

/// The log's last sequence, once it holds whatever it will ever hold of producers that have retired by now: up to there
/// a frame of unknown fate is found, or nowhere.
///
/// A server that was suspended still has to read what those producers had sent, and may answer others first. So it is
/// asked once to see that it works, and again after the time in which it reads the rest.
///
/// # Errors
/// The log did not answer.
pub(crate) async fn settled_seq(log: &Log) -> Result<u64, LogError> {
    let first = log.state().await?.last_seq;
    sleep(RETIREMENT).await;
    Ok(log.state().await?.last_seq.max(first))
}
