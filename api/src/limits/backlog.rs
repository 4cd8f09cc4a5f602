//! Back-pressure: who has to wait while the projection is behind the log.
//!
//! What is bounded is time, bytes and calls, never the sum of units, which callers choose. Those who report are slowed
//! first, the largest before all others, and calls that ask to be admitted last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ledger::UserId;
use nats::Publisher;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::error::LimitsError;
use super::shares::Shares;
use crate::facts::Watermark;

/// Pause between two looks at what is projected.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// All reporters wait when the lag is so many times `MAX_LAG`. With the default a standby worker has taken over before.
const LAG_OF_ALL: u32 = 4;
/// All reporters wait when so much is not projected, whatever the lag.
const BYTES_OF_ALL: u64 = 512 * 1024 * 1024;
/// Users with more calls than others wait to be admitted when so much is not projected. Nobody reports by then.
const BYTES_OF_ADMISSION: u64 = 2 * 1024 * 1024 * 1024;
/// Users with calls that are not projected, beyond whom no other user's calls are admitted: what is known of them must
/// be kept in memory.
const MAX_USERS: u64 = 250_000;
/// Longest time for which a client is asked to wait.
const MAX_RETRY_AFTER_S: u64 = 30;

/// What is written and not projected yet.
pub(super) struct Backlog {
    max_lag: Duration,
    publisher: Publisher,
    watermark: Watermark,
    stage: AtomicU8,
    shares: Mutex<Shares>,
}

/// Whoever has to wait now. Each stage holds for those of the stages before it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Nobody.
    Open,
    /// Reporters above their fair share.
    Largest,
    /// All reporters.
    Reporters,
    /// Users with many calls that are not projected, too.
    Admission,
}

impl Stage {
    /// Its name in readyz and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Largest => "largest_wait",
            Self::Reporters => "all_wait",
            Self::Admission => "admission_waits",
        }
    }

    /// The stage after this one, by what is not projected: time since the oldest was written, and bytes. A stage is
    /// entered at its bounds and left at half of them, so that it does not flap.
    fn next(self, lag: Duration, bytes: u64, max_lag: Duration) -> Self {
        let at = |lag: Duration, bytes: u64| {
            if bytes > BYTES_OF_ADMISSION {
                Self::Admission
            } else if lag > max_lag * LAG_OF_ALL || bytes > BYTES_OF_ALL {
                Self::Reporters
            } else if lag > max_lag {
                Self::Largest
            } else {
                Self::Open
            }
        };
        at(lag, bytes).max(self.min(at(lag * 2, bytes.saturating_mul(2))))
    }

    fn of(number: u8) -> Self {
        match number {
            0 => Self::Open,
            1 => Self::Largest,
            2 => Self::Reporters,
            _ => Self::Admission,
        }
    }
}

/// Whether so many users have calls that are not projected that no other user's call is admitted.
pub(super) fn is_crowded(users: u64) -> bool {
    users >= MAX_USERS
}

/// Admitted and reported calls of known users that are not projected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unprojected {
    /// Calls of all users.
    pub(super) all_calls: u64,
    /// Users who have any.
    pub(super) users: u64,
    /// The most that one user may have (`MAX_UNPROJECTED`).
    pub(super) most_of_one: u64,
}

impl Unprojected {
    /// Tells whether there is so little that it needs no look at the user who asks.
    pub(super) fn is_little(self) -> bool {
        self.all_calls < self.most_of_one && !is_crowded(self.users)
    }

    /// Whether a user with so many of these calls may ask for another one. A user's own backlog stands in its way,
    /// hardly ever another's: who has no such calls waits only where there is no memory left for one more.
    ///
    /// # Errors
    /// [`LimitsError::Behind`], or [`LimitsError::Crowded`].
    pub(super) fn check(self, own_calls: u64, stage: Stage) -> Result<(), LimitsError> {
        let Self { all_calls, users, most_of_one } = self;
        if own_calls == 0 {
            return if is_crowded(users) { Err(LimitsError::Crowded { users }) } else { Ok(()) };
        }
        let is_large = own_calls.saturating_mul(users) >= all_calls;
        if own_calls >= most_of_one || (is_large && stage == Stage::Admission) {
            return Err(LimitsError::Behind { calls: own_calls });
        }
        Ok(())
    }
}

impl Backlog {
    pub(super) fn new(max_lag: Duration, publisher: Publisher, watermark: Watermark) -> Self {
        let stage = AtomicU8::new(Stage::Open as u8);
        Self { max_lag, publisher, watermark, stage, shares: Mutex::default() }
    }

    pub(super) fn stage(&self) -> Stage {
        Stage::of(self.stage.load(Ordering::Relaxed))
    }

    /// Whether a reporter's calls are taken in now.
    ///
    /// # Errors
    /// [`LimitsError::Shed`]: nothing of them; later they will be.
    pub(super) fn check_reporter(&self, reporter: UserId) -> Result<(), LimitsError> {
        let stage = self.stage();
        let waits = match stage {
            Stage::Open => false,
            Stage::Largest => self.shares.lock().is_above(reporter),
            Stage::Reporters | Stage::Admission => true,
        };
        if !waits {
            return Ok(());
        }
        metrics::counter!("ledger_reports_shed_total", "stage" => stage.as_str()).increment(1);
        Err(LimitsError::Shed { retry_after_s: self.retry_after_s() })
    }

    /// The reporter's calls are in the log: so many bytes, the last of them at `seq`.
    pub(super) fn reported(&self, reporter: UserId, bytes: u64, seq: u64) {
        if seq > self.watermark.current() {
            self.shares.lock().add(reporter, bytes, seq);
        }
    }

    /// Looks at what is projected until `shutdown`.
    pub(super) async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            self.look();
        }
    }

    fn look(&self) {
        let Self { publisher, watermark, .. } = self;
        // The sequence first: its bytes are among those that are told then.
        let seq = publisher.last_acked();
        watermark.written(seq, publisher.acked_bytes());
        self.shares.lock().reached(watermark.current());
        let (lag, bytes) = (watermark.lag(), watermark.unprojected_bytes());
        let before = self.stage();
        let stage = before.next(lag, bytes, self.max_lag);
        if stage == before {
            return;
        }
        self.stage.store(stage as u8, Ordering::Relaxed);
        let (lag_ms, stage) = (lag.as_millis(), stage.as_str());
        if stage == Stage::Open.as_str() {
            tracing::info!(lag_ms, bytes, stage, "the projection is close behind the log again");
        } else {
            tracing::warn!(
                lag_ms,
                bytes,
                stage,
                "the projection is behind the log, and reporters have to wait"
            );
        }
    }

    /// Time to catch up, at a guess: what took so long to come takes no longer to project, without more of it.
    fn retry_after_s(&self) -> u64 {
        let lag = self.watermark.lag();
        lag.saturating_sub(self.max_lag / 2).as_secs().saturating_add(1).min(MAX_RETRY_AFTER_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_LAG: Duration = Duration::from_secs(4);

    fn after(stage: Stage, lag_s: f64, bytes: u64) -> Stage {
        stage.next(Duration::from_secs_f64(lag_s), bytes, MAX_LAG)
    }

    #[test]
    fn stages_follow_the_lag_and_are_left_at_half_of_it() {
        use Stage::{Largest, Open, Reporters};
        let mut stage = Open;
        for (lag_s, expected) in [
            (0.0, Open),
            (4.0, Open),
            (4.1, Largest),
            (3.0, Largest),
            (2.0, Open),
            (3.9, Open),
            (16.0, Largest),
            (16.1, Reporters),
            (8.1, Reporters),
            (8.0, Largest),
            (2.1, Largest),
            (1.9, Open),
            (20.0, Reporters),
            (0.0, Open),
        ] {
            stage = after(stage, lag_s, 0);
            assert_eq!(stage, expected, "at {lag_s} s");
        }
    }

    #[test]
    fn bytes_bound_what_a_short_lag_does_not() {
        use Stage::{Admission, Open, Reporters};
        let mut stage = Open;
        for (bytes, expected) in [
            (BYTES_OF_ALL, Open),
            (BYTES_OF_ALL + 1, Reporters),
            (BYTES_OF_ALL / 2 + 1, Reporters),
            (BYTES_OF_ALL / 2, Open),
            (BYTES_OF_ADMISSION + 1, Admission),
            (BYTES_OF_ADMISSION / 2 + 1, Admission),
            (BYTES_OF_ADMISSION / 2, Reporters),
            (0, Open),
        ] {
            stage = after(stage, 0.0, bytes);
            assert_eq!(stage, expected, "at {bytes} bytes");
        }
    }

    #[test]
    fn calls_of_others_keep_nobody_waiting() {
        let unprojected = Unprojected { all_calls: 1_000_000, users: 1_000, most_of_one: 5_000 };
        let check = |own_calls, stage| unprojected.check(own_calls, stage);
        for stage in [Stage::Open, Stage::Largest, Stage::Reporters] {
            assert_eq!(check(0, stage), Ok(()));
            assert_eq!(check(4_999, stage), Ok(()));
            assert_eq!(check(5_000, stage), Err(LimitsError::Behind { calls: 5_000 }));
        }
        // At last the largest users wait, and still not the others.
        assert_eq!(check(0, Stage::Admission), Ok(()));
        assert_eq!(check(999, Stage::Admission), Ok(()));
        assert_eq!(check(1_000, Stage::Admission), Err(LimitsError::Behind { calls: 1_000 }));
    }

    #[test]
    fn a_user_for_whom_there_is_no_memory_waits_and_those_in_memory_go_on() {
        let crowded = Unprojected { all_calls: MAX_USERS, users: MAX_USERS, most_of_one: 5_000 };
        assert!(!crowded.is_little());
        assert_eq!(crowded.check(0, Stage::Open), Err(LimitsError::Crowded { users: MAX_USERS }));
        assert_eq!(crowded.check(1, Stage::Open), Ok(()));
        let roomy = Unprojected { users: MAX_USERS - 1, ..crowded };
        assert_eq!(roomy.check(0, Stage::Open), Ok(()));
        assert!(!Unprojected { all_calls: 5_000, users: 1, most_of_one: 5_000 }.is_little());
        assert!(Unprojected { all_calls: 4_999, users: 1, most_of_one: 5_000 }.is_little());
    }

    #[test]
    fn a_stage_comes_back_from_its_number() {
        for stage in [Stage::Open, Stage::Largest, Stage::Reporters, Stage::Admission] {
            assert_eq!(Stage::of(stage as u8), stage);
        }
    }
}
