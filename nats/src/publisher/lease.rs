//! The time for which events may be sent whose writer must be the only one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bits of [`Shared::state`] that say until when; enough for eight years.
const TIME_BITS: u32 = 48;
const TIME: u64 = (1 << TIME_BITS) - 1;

/// The right to be the only writer of some events, for a time. Whoever keeps it renews it. One that was lost and won
/// again is another [`Term`]: somebody else may have had it in between. Over at first. Cheap to clone.
///
/// Time goes on while the process stands still: one that is frozen and goes on finds the lease over, whatever it was
/// about to do.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Shared>);

/// One time without a break for which a lease is held. What is submitted under it is sent while it holds, and else
/// refused. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Term {
    lease: Lease,
    number: u64,
}

#[derive(Debug)]
struct Shared {
    since: Instant,
    /// Number of the term, and in the lower bits the microseconds after `since` at which it is over.
    state: AtomicU64,
}

impl Default for Lease {
    fn default() -> Self {
        Self(Arc::new(Shared { since: Instant::now(), state: AtomicU64::new(0) }))
    }
}

impl Lease {
    /// Begins a term that holds from now on until `until`, and no longer.
    pub fn begin(&self, until: Instant) {
        self.hold(self.number() + 1, until);
    }

    /// Has the present term hold until `until`. Only its keeper may say so, who has lost nothing since it began.
    pub fn renew(&self, until: Instant) {
        self.hold(self.number(), until);
    }

    /// The present term, if it holds at this moment.
    pub fn term(&self) -> Option<Term> {
        let term = Term { lease: self.clone(), number: self.number() };
        term.holds().then_some(term)
    }

    fn number(&self) -> u64 {
        self.0.state.load(Ordering::Acquire) >> TIME_BITS
    }

    fn hold(&self, number: u64, until: Instant) {
        let until = micros(until.saturating_duration_since(self.0.since));
        self.0.state.store((number << TIME_BITS) | until, Ordering::Release);
    }
}

impl Term {
    /// Whether it holds at this moment.
    pub fn holds(&self) -> bool {
        let shared = &self.lease.0;
        let state = shared.state.load(Ordering::Acquire);
        state >> TIME_BITS == self.number && micros(shared.since.elapsed()) < state & TIME
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_from_a_renewal_to_its_end() {
        let (lease, later) = (Lease::default(), Instant::now() + Duration::from_mins(1));
        assert!(lease.term().is_none());
        lease.begin(later);
        let term = lease.clone().term().unwrap();
        lease.renew(Instant::now());
        assert!(!term.holds() && lease.term().is_none());
        lease.renew(later);
        assert!(term.holds(), "its keeper has lost nothing");
    }

    #[test]
    fn one_that_was_lost_and_won_again_is_another_term() {
        let (lease, later) = (Lease::default(), Instant::now() + Duration::from_mins(1));
        lease.begin(later);
        let term = lease.term().unwrap();
        lease.begin(later);
        assert!(!term.holds());
        assert!(lease.term().unwrap().holds());
    }
}
