//! Patience with those who guess: how many tries an account has, from one address and from all of them.
//!
//! From one address an account has five tries; then each waits twice as long as the one before, up to 15 minutes, until
//! one succeeds or an hour has passed without any. From all addresses together an account has so many an hour; whoever
//! has signed in from an address before is not held to that, so that nobody keeps the owner out from elsewhere. What is
//! counted is in memory, of each instance: an account that nobody has is treated as one that somebody has.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use credentials::Hash;
use parking_lot::Mutex;
use quick_cache::sync::Cache;

use crate::http::client::party;

/// Tries from one address that wait for nothing.
const FREE: u32 = 5;
/// The longest wait between two tries from one address.
const LONGEST_WAIT: Duration = Duration::from_mins(15);
/// Time without a try after which all before are forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);
/// Accounts and addresses remembered at once; the oldest go first.
const REMEMBERED: usize = 50_000;

/// Tries at accounts.
pub(crate) struct Backoff {
    from_one: Cache<(Hash, IpAddr), Arc<Mutex<Tries>>>,
    from_all: Cache<Hash, Arc<Mutex<Tries>>>,
    /// Tries from all addresses in an hour.
    an_hour: u32,
}

#[derive(Clone, Copy)]
struct Tries {
    count: u32,
    /// Of those from one address the last one; of those from all the first one.
    at: Instant,
}

impl Tries {
    fn none(now: Instant) -> Self {
        Self { count: 0, at: now }
    }

    /// Forgets all when the hour is over.
    fn refresh(&mut self, now: Instant) {
        if now.saturating_duration_since(self.at) >= FORGOTTEN_AFTER {
            *self = Self::none(now);
        }
    }
}

impl Backoff {
    /// Nobody has tried anything yet; an account has so many tries an hour from all addresses.
    pub(crate) fn new(an_hour: u32) -> Self {
        Self { from_one: Cache::new(REMEMBERED), from_all: Cache::new(REMEMBERED), an_hour }
    }

    /// Counts a try before it is looked at, so that many at once are not one; or the seconds until the next one from
    /// this address.
    pub(super) fn begin(&self, account: Hash, address: IpAddr, now: Instant) -> Result<(), u64> {
        let fresh = || Ok::<_, Infallible>(Arc::new(Mutex::new(Tries::none(now))));
        let Ok(tries) = self.from_one.get_or_insert_with(&(account, party(address)), fresh);
        let mut tries = tries.lock();
        tries.refresh(now);
        let due = tries.at + wait_after(tries.count);
        if due > now {
            return Err((due - now).as_secs().max(1));
        }
        *tries = Tries { count: tries.count.saturating_add(1), at: now };
        drop(tries);
        let Ok(all) = self.from_all.get_or_insert_with(&account, fresh);
        let mut all = all.lock();
        all.refresh(now);
        all.count = all.count.saturating_add(1);
        Ok(())
    }

    /// Whether the account has had its tries of this hour from all addresses; the seconds until the next hour.
    pub(super) fn is_used_up(&self, account: &Hash, now: Instant) -> Option<u64> {
        let all = *self.from_all.get(account)?.lock();
        let left = FORGOTTEN_AFTER.saturating_sub(now.saturating_duration_since(all.at));
        (all.count > self.an_hour && !left.is_zero()).then(|| left.as_secs().max(1))
    }

    /// Takes a try back that was none: it has succeeded.
    pub(super) fn succeeded(&self, account: &Hash, address: IpAddr) {
        self.from_one.remove(&(*account, party(address)));
        if let Some(all) = self.from_all.get(account) {
            let mut all = all.lock();
            all.count = all.count.saturating_sub(1);
        }
    }
}

/// The wait after so many tries.
fn wait_after(count: u32) -> Duration {
    let Some(doublings) = count.checked_sub(FREE) else { return Duration::ZERO };
    // 2^10 s is longer than the longest already.
    LONGEST_WAIT.min(Duration::from_secs(1 << doublings.min(10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: Hash = [7; 32];

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_try_after_the_fifth_waits_twice_as_long() {
        let backoff = Backoff::new(1_000);
        let (here, mut now) = (address("203.0.113.7"), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..20 {
            let wait = backoff.begin(ACCOUNT, here, now).err().unwrap_or(0);
            waits.push(wait);
            now += Duration::from_secs(wait);
            if wait > 0 {
                assert_eq!(backoff.begin(ACCOUNT, here, now), Ok(()));
            }
        }
        assert_eq!(waits[..10], [0, 0, 0, 0, 0, 1, 2, 4, 8, 16]);
        assert_eq!(waits[19], 900);
        assert_eq!(backoff.begin(ACCOUNT, address("203.0.113.8"), now), Ok(()), "another address");
        assert_eq!(backoff.begin([8; 32], here, now), Ok(()), "another account");
        backoff.succeeded(&ACCOUNT, here);
        assert_eq!(backoff.begin(ACCOUNT, here, now), Ok(()), "one that succeeds takes all back");
    }

    #[test]
    fn an_account_has_so_many_tries_an_hour_from_all_addresses() {
        let backoff = Backoff::new(100);
        let now = Instant::now();
        for number in 0..101_u32 {
            assert_eq!(backoff.is_used_up(&ACCOUNT, now), None, "{number}");
            let from = IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()]);
            assert_eq!(backoff.begin(ACCOUNT, from, now), Ok(()));
        }
        assert_eq!(backoff.is_used_up(&ACCOUNT, now), Some(3_600));
        assert_eq!(backoff.is_used_up(&[8; 32], now), None);
        assert_eq!(backoff.is_used_up(&ACCOUNT, now + FORGOTTEN_AFTER), None);
    }

    #[test]
    fn tries_at_the_same_time_are_all_counted() {
        let backoff = Backoff::new(1_000);
        let now = Instant::now();
        let passed = std::thread::scope(|scope| {
            let guess =
                || (0..1_000).filter(|_| backoff.begin(ACCOUNT, address("203.0.113.7"), now).is_ok()).count();
            let guessers: Vec<_> = (0..4).map(|_| scope.spawn(guess)).collect();
            guessers.into_iter().map(|guesser| guesser.join().unwrap()).sum::<usize>()
        });
        assert_eq!(passed, 5);
    }
}
