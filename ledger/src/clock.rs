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
        let offset = Duration::milliseconds(self.offset_ms());
        system.checked_add_signed(offset).unwrap_or(system).trunc_subsecs(6)
    }

    /// How far this clock is ahead of the system's, in milliseconds.
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
