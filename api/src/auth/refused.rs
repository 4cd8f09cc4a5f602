//! Refused credentials, gathered: one event a minute at most, whoever tries whatever how often.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use events::{AuthFailed, AuthFailureCount, Body, Event, SOURCE_API};
use ipnet::IpNet;
use ledger::{Clock, IdSource};
use nats::{EncodedEvent, Publisher};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Bits of an address that are recorded: a provider's or an organisation's network, and no person's.
const V4_BITS: u8 = 24;
const V6_BITS: u8 = 48;
/// Minutes kept at once: the present one, and one that is about to be told of.
const MAX_MINUTES: usize = 2;
/// Pause between two looks for a minute that has ended.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Counts refused credentials. Cheap to clone.
#[derive(Clone)]
pub struct Refused(Arc<Parts>);

struct Parts {
    clock: Clock,
    /// By their starts.
    minutes: Mutex<BTreeMap<DateTime<Utc>, Counts>>,
    /// The last minute was lost.
    is_lost: AtomicBool,
}

/// The refusals of one minute.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    named: BTreeMap<(&'static str, IpNet), u64>,
    other: u64,
}

impl Refused {
    /// None yet, at the time of `clock`.
    pub(crate) fn new(clock: Clock) -> Self {
        let (minutes, is_lost) = (Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(Parts { clock, minutes, is_lost }))
    }

    /// Counts a credential from `address` that was refused for this reason, one word. Never waits.
    pub fn note(&self, reason: &'static str, address: IpAddr) {
        let start = start_of_minute(self.0.clock.now());
        let mut minutes = self.0.minutes.lock();
        minutes.entry(start).or_default().add(reason, network(address));
        if minutes.len() > MAX_MINUTES {
            // Nobody has come for it for a minute: nobody will.
            minutes.pop_first();
        }
    }

    /// Takes the minutes that have ended before `at`, or all.
    fn take(&self, ended_before: Option<DateTime<Utc>>) -> BTreeMap<DateTime<Utc>, Counts> {
        let mut minutes = self.0.minutes.lock();
        match ended_before {
            None => std::mem::take(&mut *minutes),
            Some(at) => {
                let present = start_of_minute(at);
                minutes.extract_if(.., |start, _| *start != present).collect()
            }
        }
    }

    /// Hands over to the log what is due. Never waits; a minute that finds no room is lost.
    fn flush(&self, publisher: &Publisher, ids: &IdSource, everything: bool) {
        let now = self.0.clock.now();
        for (start, counts) in self.take((!everything).then_some(now)) {
            let failures = counts.sum();
            let body = Body::AuthFailed(counts.into_body(start));
            let event = Event::own(SOURCE_API, ids.event_id(), None, now, body);
            let is_lost = !publisher.offer(&EncodedEvent::of(&event));
            if is_lost && !self.0.is_lost.swap(true, Ordering::Relaxed) {
                tracing::warn!(failures, minute = %start, "the log takes no numbers of refused credentials; they are lost");
            } else if !is_lost {
                self.0.is_lost.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Tells the log of each minute when it is over, until `shutdown`; then of the rest.
    pub(crate) async fn tell(self, publisher: Publisher, ids: IdSource, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(FLUSH_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.flush(&publisher, &ids, false),
                () = shutdown.cancelled() => break,
            }
        }
        self.flush(&publisher, &ids, true);
    }
}

impl Counts {
    fn add(&mut self, reason: &'static str, network: IpNet) {
        let is_room = self.named.len() < AuthFailed::MAX_NAMED;
        match self.named.get_mut(&(reason, network)) {
            Some(failures) => *failures += 1,
            None if is_room => {
                self.named.insert((reason, network), 1);
            }
            None => self.other += 1,
        }
    }

    fn sum(&self) -> u64 {
        self.named.values().sum::<u64>() + self.other
    }

    fn into_body(self, window_start: DateTime<Utc>) -> AuthFailed<'static> {
        let counts = self.named.into_iter().map(|((reason, network), failures)| AuthFailureCount {
            reason: reason.into(),
            network: network.to_string().into(),
            failures,
        });
        AuthFailed { window_start, counts: counts.collect(), other: self.other }
    }
}

fn network(address: IpAddr) -> IpNet {
    let address = address.to_canonical();
    let bits = if address.is_ipv4() { V4_BITS } else { V6_BITS };
    IpNet::new(address, bits).unwrap_or_else(|_| IpNet::from(address)).trunc()
}

fn start_of_minute(at: DateTime<Utc>) -> DateTime<Utc> {
    let seconds = at.timestamp();
    DateTime::from_timestamp(seconds - seconds.rem_euclid(60), 0).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(refused: &Refused) -> Vec<AuthFailed<'static>> {
        refused.take(None).into_iter().map(|(start, counts)| counts.into_body(start)).collect()
    }

    fn note(refused: &Refused, address: &str) {
        refused.note("expired", address.parse().unwrap());
    }

    #[test]
    fn addresses_are_told_apart_by_their_networks_alone() {
        let refused = Refused::new(Clock::system());
        for address in
            ["203.0.113.7", "::ffff:203.0.113.8", "203.0.114.7", "2001:db8:7:1::1", "2001:db8:7:2::1"]
        {
            note(&refused, address);
        }
        refused.note("signature", "203.0.113.7".parse().unwrap());
        let counts = told(&refused).into_iter().flat_map(|told| told.counts);
        let mut counts: Vec<_> =
            counts.map(|count| format!("{} {} {}", count.reason, count.network, count.failures)).collect();
        counts.sort();
        assert_eq!(
            counts,
            [
                "expired 2001:db8:7::/48 2",
                "expired 203.0.113.0/24 2",
                "expired 203.0.114.0/24 1",
                "signature 203.0.113.0/24 1"
            ]
        );
        assert_eq!(told(&refused), []);
    }

    #[test]
    fn beyond_sixty_four_they_are_counted_together_and_none_is_lost() {
        let mut counts = Counts::default();
        for _ in 0..2 {
            for number in 0..1_000_u32 {
                counts.add("expired", network(IpAddr::from(std::net::Ipv4Addr::from(number << 8))));
            }
        }
        assert_eq!((counts.named.len(), counts.other, counts.sum()), (64, 2 * 936, 2_000));
    }

    #[test]
    fn a_minute_that_nobody_comes_for_is_not_kept_for_ever() {
        let clock = Clock::system();
        let refused = Refused::new(clock.clone());
        for _ in 0..100 {
            note(&refused, "203.0.113.7");
            clock.set(clock.now() + chrono::TimeDelta::minutes(1));
        }
        assert_eq!(told(&refused).len(), MAX_MINUTES);
    }

    #[test]
    fn the_present_minute_is_not_told_of_before_its_end() {
        let clock = Clock::system();
        let refused = Refused::new(clock.clone());
        let start = start_of_minute(clock.now());
        refused.0.minutes.lock().entry(start).or_default().other = 1;
        assert!(refused.take(Some(start)).is_empty());
        assert!(refused.take(Some(start + chrono::TimeDelta::seconds(59))).is_empty());
        assert_eq!(refused.take(Some(start + chrono::TimeDelta::seconds(60))).len(), 1);
    }
}
