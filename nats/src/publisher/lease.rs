//! The time for which events may be sent whose writer must be the only one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The right to be the only writer of some events, for a time. Whoever keeps it renews it; a publisher sends what was
/// submitted under it while it holds, and refuses the rest. Over at first. Cheap to clone.
///
/// Time goes on while the process stands still: one that is frozen and goes on finds the lease over, whatever it was
/// about to do.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Term>);

#[derive(Debug)]
struct Term {
    since: Instant,
    /// Microseconds after `since` at which it is over.
    until_us: AtomicU64,
}

impl Default for Lease {
    fn default() -> Self {
        Self(Arc::new(Term { since: Instant::now(), until_us: AtomicU64::new(0) }))
    }
}

impl Lease {
    /// Holds from now on until `until`, and no longer.
    pub fn renew(&self, until: Instant) {
        self.0.until_us.store(micros(until.saturating_duration_since(self.0.since)), Ordering::Release);
    }

    /// Whether it holds at this moment.
    pub fn holds(&self) -> bool {
        micros(self.0.since.elapsed()) < self.0.until_us.load(Ordering::Acquire)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_from_a_renewal_to_its_end() {
        let lease = Lease::default();
        assert!(!lease.holds());
        lease.renew(Instant::now() + Duration::from_mins(1));
        assert!(lease.clone().holds());
        lease.renew(Instant::now());
        assert!(!lease.holds());
    }
}
