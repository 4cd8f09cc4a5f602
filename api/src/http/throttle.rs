//! Pace of principals: at most so many requests in a time, on paths that are not metered but cost much.

use std::hash::Hash;
use std::time::{Duration, Instant};

use ledger::UserId;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use std::sync::Arc;

use super::gcra::Level;
use crate::http::problem::Problem;

/// Requests on history, calls, exports and audits in a second.
pub const READS: Pace = Pace { requests: 10, period: Duration::from_secs(1), name: "a second" };
/// Questions whether a token works in a minute.
pub const TOKEN_TESTS: Pace = Pace { requests: 10, period: Duration::from_mins(1), name: "a minute" };
/// Tokens stored and deleted in a minute: each is a row of the log and of the audit for ever.
pub const TOKEN_CHANGES: Pace = Pace { requests: 10, period: Duration::from_mins(1), name: "a minute" };
/// API keys made and changed in a minute: each is an event of the log for ever.
pub const KEY_CHANGES: Pace = Pace { requests: 10, period: Duration::from_mins(1), name: "a minute" };
/// Changes of passwords, second factors and sessions in a minute: each is an event of the log for ever.
pub const ACCOUNT_CHANGES: Pace = Pace { requests: 10, period: Duration::from_mins(1), name: "a minute" };
/// Sign-ins of a user in a minute: each is an event of the log for ever.
pub const SIGN_INS: Pace = Pace { requests: 60, period: Duration::from_mins(1), name: "a minute" };
/// Sign-ins elsewhere that an address begins in a minute: each is a row for ten minutes.
pub const STARTS: Pace = Pace { requests: 60, period: Duration::from_mins(1), name: "a minute" };
/// Changes of plan and resets that a user asks for itself in a minute: each is an event of the log for ever.
pub const OWN_CHANGES: Pace = Pace { requests: 10, period: Duration::from_mins(1), name: "a minute" };
/// Principals remembered at once. A forgotten one starts with a full allowance.
const PRINCIPALS: usize = 20_000;

/// Number of requests that a principal may make in a time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    requests: u32,
    period: Duration,
    /// The period, for people.
    name: &'static str,
}

/// Shapes requests: so many in any period, in a burst or spread, of each instance. Cheap to clone.
#[derive(Clone)]
pub struct Throttle<K = UserId>(Arc<Parts<K>>);

struct Parts<K> {
    pace: Pace,
    used: Cache<K, Arc<Mutex<Level>>>,
}

impl<K: Eq + Hash + Clone> Throttle<K> {
    /// Nobody has asked for anything yet.
    pub fn new(pace: Pace) -> Self {
        Self(Arc::new(Parts { pace, used: Cache::new(PRINCIPALS) }))
    }

    /// 429 when `principal` has had its requests of this period.
    #[expect(clippy::needless_pass_by_value, reason = "an id or an address")]
    pub fn check(&self, principal: K) -> Result<(), Problem> {
        let Pace { requests, name, .. } = self.0.pace;
        let refusal =
            |wait_s| Problem::rate_limited(format!("At most {requests} such requests {name}."), wait_s);
        self.wait(&principal).map_err(refusal)
    }

    /// The seconds to wait when `principal` has had its requests of this period.
    pub(crate) fn wait(&self, principal: &K) -> Result<(), u64> {
        if self.admit(principal, Instant::now()) { Ok(()) } else { Err(self.interval().as_secs().max(1)) }
    }

    fn interval(&self) -> Duration {
        self.0.pace.period / self.0.pace.requests
    }

    fn admit(&self, principal: &K, now: Instant) -> bool {
        let interval = self.interval();
        let tolerance = self.0.pace.period.saturating_sub(interval);
        let fresh = || Ok::<_, std::convert::Infallible>(Arc::new(Mutex::new(Level::empty(now))));
        let Ok(used) = self.0.used.get_or_insert_with(principal, fresh);
        let mut used = used.lock();
        let has_room = used.wait(now, tolerance).is_zero();
        if has_room {
            used.add(now, interval);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn ten_pass_in_a_second_and_more_as_time_goes_by() {
        let throttle = Throttle::new(READS);
        let (one, other) = (UserId::new(Uuid::from_u128(1)), UserId::new(Uuid::from_u128(2)));
        let start = Instant::now();
        let passed = (0..30).filter(|_| throttle.admit(&one, start)).count();
        assert_eq!(passed, 10);
        assert!(throttle.admit(&other, start), "principals do not share");
        assert!(!throttle.admit(&one, start + Duration::from_millis(99)));
        assert!(throttle.admit(&one, start + Duration::from_millis(100)));
        let later = start + Duration::from_secs(5);
        assert_eq!((0..30).filter(|_| throttle.admit(&one, later)).count(), 10);
    }
}
