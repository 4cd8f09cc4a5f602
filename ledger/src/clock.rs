//! The only place that reads the wall clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Duration, SubsecRound, Utc};

/// The ledger's clock: the system's clock plus an offset, so that a month's end can be tried (`dev --now`).
/// Clones share the offset.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock as it is.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that shows `start` now and goes on at the system's pace.
    pub fn starting_at(start: DateTime<Utc>) -> Self {
        let clock = Self::system();
        clock.set(start);
        clock
    }

    /// A clock ahead of the system's by so many milliseconds (behind if negative): another process's
    /// [`Clock::offset_ms`].
    pub fn with_offset_ms(offset_ms: i64) -> Self {
        Self { offset_ms: Arc::new(AtomicI64::new(offset_ms)) }
    }

    /// The present instant, in whole microseconds: what the log and PostgreSQL keep of it.
    pub fn now(&self) -> DateTime<Utc> {
        let system = system_now();
        let shown =
            Duration::try_milliseconds(self.offset_ms()).and_then(|offset| system.checked_add_signed(offset));
        shown.unwrap_or(system).trunc_subsecs(6)
    }

    /// Lead of this clock over the system's, in milliseconds; negative when it is behind.
    pub fn offset_ms(&self) -> i64 {
        self.offset_ms.load(Ordering::Relaxed)
    }

    /// Makes this clock and all its clones show `now`.
    pub fn set(&self, now: DateTime<Utc>) {
        self.offset_ms.store((now - system_now()).num_milliseconds(), Ordering::Relaxed);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock; all else is given a Clock"
)]
fn system_now() -> DateTime<Utc> {
    Utc::now()
}

#[cfg(test)]
mod tests {
    use chrono::Timelike;

    use super::*;
    use crate::month::Month;

    #[test]
    fn a_clock_can_be_set_and_handed_on() {
        let start = Month::new(2_030, 1).unwrap().end() - Duration::seconds(2);
        let clock = Clock::starting_at(start);
        let shown = clock.now();
        assert!(
            start - Duration::milliseconds(1) <= shown && shown < start + Duration::minutes(1),
            "{shown}"
        );
        assert_eq!(shown.nanosecond() % 1_000, 0);

        let other = Clock::with_offset_ms(clock.offset_ms());
        assert!((other.now() - clock.now()).abs() < Duration::minutes(1));

        let clone = clock.clone();
        clock.set(start + Duration::days(1));
        assert!(clone.now() >= start + Duration::days(1) - Duration::milliseconds(1));
    }

    #[test]
    fn an_absurd_offset_does_not_panic() {
        assert!(Clock::with_offset_ms(i64::MAX).now() >= Month::FIRST.start());
        Clock::with_offset_ms(i64::MIN).now();
    }
}
