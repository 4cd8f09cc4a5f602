//! The generic cell rate algorithm (GCRA, ITU-T I.371): so much in any period, in a burst or spread.

use std::time::{Duration, Instant};

/// Instant up to which an allowance would be used if all so far had been spread evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level(Instant);

impl Level {
    /// Nothing is used.
    pub(super) fn empty(now: Instant) -> Self {
        Self(now)
    }

    /// Time until at most `burst` of the allowance is used; zero when that is so.
    pub(super) fn wait(self, now: Instant, burst: Duration) -> Duration {
        self.0.saturating_duration_since(now + burst)
    }

    /// Uses that part of the period which `share` is.
    pub(super) fn add(&mut self, now: Instant, share: Duration) {
        self.0 = self.0.max(now) + share;
    }
}
