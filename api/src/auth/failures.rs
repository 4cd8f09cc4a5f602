//! Failed credentials, counted by address.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use quick_cache::sync::Cache;

use crate::http::client::party;

/// Failed credentials that an address has in a minute.
const PER_MINUTE: u32 = 30;
/// Addresses remembered at once; the oldest go first.
const ADDRESSES: usize = 20_000;

/// Failed credentials per address and minute.
pub(super) struct Failures(Cache<IpAddr, Arc<Mutex<Counted>>>);

/// The failures of one minute.
#[derive(Default)]
struct Counted {
    /// Minutes since the epoch.
    minute: i64,
    failures: u32,
}

impl Default for Failures {
    fn default() -> Self {
        Self(Cache::new(ADDRESSES))
    }
}

impl Failures {
    /// `Some(seconds)` until the next minute while the address has had all of this minute's.
    pub(super) fn exhausted(&self, address: IpAddr, now: DateTime<Utc>) -> Option<u64> {
        let counted = self.0.get(&party(address))?;
        let counted = counted.lock();
        let is_now = counted.minute == now.timestamp().div_euclid(60);
        (is_now && counted.failures >= PER_MINUTE).then(|| until_next_minute(now))
    }

    /// Counts one. `Some(seconds)` until the next minute once the address has had all of this minute's.
    pub(super) fn record(&self, address: IpAddr, now: DateTime<Utc>) -> Option<u64> {
        let address = party(address);
        let minute = now.timestamp().div_euclid(60);
        // One counter for all who come at once: reading and writing it apart would let a hundred guesses be one.
        let Ok(counted) = self.0.get_or_insert_with(&address, || Ok::<_, Infallible>(Arc::default()));
        let mut counted = counted.lock();
        if counted.minute != minute {
            *counted = Counted { minute, failures: 0 };
        }
        counted.failures = counted.failures.saturating_add(1);
        (counted.failures > PER_MINUTE).then(|| until_next_minute(now))
    }
}

fn until_next_minute(now: DateTime<Utc>) -> u64 {
    60 - now.timestamp().rem_euclid(60).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    #[test]
    fn the_thirty_first_failure_of_a_minute_is_told_to_wait() {
        let failures = Failures::default();
        let address: IpAddr = "203.0.113.7".parse().unwrap();
        for _ in 0..30 {
            assert_eq!(failures.exhausted(address, at(10)), None);
            assert_eq!(failures.record(address, at(10)), None);
        }
        assert_eq!(failures.exhausted(address, at(10)), Some(50), "before it fails again");
        assert_eq!(failures.exhausted(address, at(60)), None);
        assert_eq!(failures.record(address, at(10)), Some(50));
        assert_eq!(failures.record("203.0.113.8".parse().unwrap(), at(10)), None);
        assert_eq!(failures.record(address, at(60)), None, "a new minute starts anew");
    }

    #[test]
    fn guesses_at_the_same_time_are_all_counted() {
        let failures = Failures::default();
        let address: IpAddr = "203.0.113.7".parse().unwrap();
        let passed = std::thread::scope(|scope| {
            let guess = || (0..5_000).filter(|_| failures.record(address, at(0)).is_none()).count();
            let guessers: Vec<_> = (0..8).map(|_| scope.spawn(guess)).collect();
            guessers.into_iter().map(|guesser| guesser.join().unwrap()).sum::<usize>()
        });
        assert_eq!(passed, 30);
    }

    #[test]
    fn a_v6_network_counts_as_one_address() {
        let failures = Failures::default();
        for host in 0..30_u32 {
            assert_eq!(failures.record(format!("2001:db8::{host:x}").parse().unwrap(), at(0)), None);
        }
        assert!(failures.record("2001:db8::ffff".parse().unwrap(), at(0)).is_some());
        assert_eq!(failures.record("2001:db8:0:1::1".parse().unwrap(), at(0)), None);
        // The same client, whichever way the socket writes it.
        assert_eq!(party("::ffff:10.0.0.1".parse().unwrap()), party("10.0.0.1".parse().unwrap()));
    }
}
