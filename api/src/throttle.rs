//! At most so many requests a second per principal, on paths that are not metered but cost much.

use std::time::{Duration, Instant};

use ledger::UserId;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use std::sync::Arc;

use crate::problem::Problem;

/// Requests a second on history, calls and exports.
const PER_SECOND: u32 = 10;
/// Principals remembered at once. A forgotten one starts with a full allowance.
const PRINCIPALS: usize = 20_000;

/// Shapes requests by the generic cell rate algorithm (GCRA, ITU-T I.371): `PER_SECOND` in any second, in a burst or
/// spread. Cheap to clone.
#[derive(Clone)]
pub struct Throttle(Arc<Inner>);

struct Inner {
    /// When the next request would arrive if all so far had been spread evenly.
    arrivals: Cache<UserId, Arc<Mutex<Instant>>>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self(Arc::new(Inner { arrivals: Cache::new(PRINCIPALS) }))
    }
}

impl Throttle {
    /// 429 when `principal` has had its requests of this second.
    pub fn check(&self, principal: UserId) -> Result<(), Problem> {
        if self.admit(principal, Instant::now()) {
            return Ok(());
        }
        Err(Problem::rate_limited(format!("At most {PER_SECOND} such requests a second."), 1))
    }

    fn admit(&self, principal: UserId, now: Instant) -> bool {
        const INTERVAL: Duration = Duration::from_millis(1000 / PER_SECOND as u64);
        const TOLERANCE: Duration = Duration::from_millis(1000 - 1000 / PER_SECOND as u64);
        let fresh = || Ok::<_, std::convert::Infallible>(Arc::new(Mutex::new(now)));
        let Ok(arrival) = self.0.arrivals.get_or_insert_with(&principal, fresh);
        let mut arrival = arrival.lock();
        let expected = (*arrival).max(now);
        if expected.saturating_duration_since(now) > TOLERANCE {
            return false;
        }
        *arrival = expected + INTERVAL;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn ten_pass_in_a_second_and_more_as_time_goes_by() {
        let throttle = Throttle::default();
        let (one, other) = (UserId::new(Uuid::from_u128(1)), UserId::new(Uuid::from_u128(2)));
        let start = Instant::now();
        let passed = (0..30).filter(|_| throttle.admit(one, start)).count();
        assert_eq!(passed, 10);
        assert!(throttle.admit(other, start), "principals do not share");
        assert!(!throttle.admit(one, start + Duration::from_millis(99)));
        assert!(throttle.admit(one, start + Duration::from_millis(100)));
        let later = start + Duration::from_secs(5);
        assert_eq!((0..30).filter(|_| throttle.admit(one, later)).count(), 10);
    }
}
