//! Pace of an import: everybody's calls stand behind its own in the log, so it waits while the projection is behind
//! what it has written.

use std::time::{Duration, Instant};

use api::facts::Lag;
use store::operations::projector_status::State;

use super::sink::{Connected, POLL_EVERY, STANDSTILL};

/// Part of `MAX_LAG` by which an import keeps the projection behind at most. It is never in a hurry, and those who
/// report calls as they happen have to wait from `MAX_LAG` on.
const PART_OF_MAX_LAG: u32 = 4;

/// Pace of an import.
pub(super) struct Pace {
    most: Duration,
    lag: Lag,
    /// Position at which a wait found that nobody projects: it is not waited for again before that changes.
    stuck_at: Option<u64>,
}

impl Pace {
    /// Keeps well below this lag.
    pub(super) fn new(max_lag: Duration) -> Self {
        Self { most: max_lag / PART_OF_MAX_LAG, lag: Lag::default(), stuck_at: None }
    }

    /// Calls were written, the last of them at `seq`.
    pub(super) fn wrote(&mut self, seq: u64) {
        self.lag.seen(seq, 0, Instant::now());
    }

    /// Waits until the projection is close behind, as long as a worker gets on with it: where none does, nobody is kept
    /// waiting by more calls.
    pub(super) async fn keep(&mut self, connected: &Connected) {
        let mut furthest = (0, Instant::now());
        let mut most = self.most;
        while self.lag.of(Instant::now()) > most {
            // Whoever writes next sees what is wrong with the database, and says it.
            let Ok((seq, worker)) = connected.look().await else { return };
            self.lag.reached(seq);
            if seq > furthest.0 {
                furthest = (seq, Instant::now());
            }
            let works = worker.is_some_and(|worker| worker.state != State::Stopped);
            if !works || furthest.1.elapsed() > STANDSTILL {
                self.stuck_at = Some(seq);
            }
            if self.stuck_at == Some(seq) {
                return;
            }
            // Having waited, it lets the projection come closer than what makes it wait.
            most = self.most / 2;
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}
