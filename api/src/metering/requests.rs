//! Requests of late, so that one which a trusted proxy asks about several times is one call.
//!
//! nginx asks again after every internal redirect, other proxies when an answer was lost. This process answers a
//! repetition as it answered before; the projector tells apart what two processes, or one before and after a restart,
//! have recorded, by the hash that the events carry.
//!
//! What was refused is not remembered as an answer: a repetition is decided again, so that a larger plan shows at once,
//! and is no second refusal if nothing has changed. What failed is not remembered at all. `once` decides.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use events::is_same_request;
use ledger::UserId;
use parking_lot::Mutex;
use uuid::Uuid;

use super::call::Recorded;

/// Users share this many places by hash: whoever asks about many requests makes a thousandth of the others forgotten.
const PLACES: usize = 1_024;
/// Requests that a place remembers; the oldest make room. A request takes some 200 bytes, so all take 13 MB at most.
const REQUESTS: usize = 64;
/// Repetitions of a call. The next one is a call of its own: nobody has a request that is free for ever.
const MAX_REPETITIONS: u8 = 10;

/// Requests that trusted proxies asked about, with the calls that they are.
pub(crate) struct Requests {
    places: Box<[Mutex<VecDeque<Request>>]>,
    hasher: RandomState,
    started_at: DateTime<Utc>,
}

struct Request {
    /// Its hash when nothing of it is used up.
    hash: Uuid,
    /// Calls of it whose repetitions are used up.
    used_up: u32,
    repetitions: u8,
    call: Arc<Call>,
}

/// The call that a request is.
pub(super) struct Call {
    /// Admission instant, in microseconds since 1970: that of the event, by which the projector decides too.
    at_us: AtomicI64,
    /// Held by whoever decides about it; others wait.
    pub(super) fate: tokio::sync::Mutex<Fate>,
}

/// What became of a call that was asked for.
pub(super) enum Fate {
    /// Nobody has decided, or nobody knows whether a decision took effect.
    Open,
    Refused,
    Recorded(Recorded),
}

impl Requests {
    /// Remembers nothing; this process starts now.
    pub(crate) fn new(now: DateTime<Utc>) -> Self {
        let places = std::iter::repeat_with(Mutex::default).take(PLACES).collect();
        Self { places, hasher: RandomState::new(), started_at: now }
    }

    /// The call that a request is which is asked about now, and how many of it are used up.
    pub(super) fn ask(&self, user: UserId, hash: Uuid, now: DateTime<Utc>) -> (Arc<Call>, u32) {
        let place = usize::try_from(self.hasher.hash_one(user) % PLACES as u64).unwrap_or_default();
        let mut place = self.places[place].lock();
        // What is asked about again was mostly asked about just now.
        let known = place.iter().rposition(|request| request.hash == hash);
        let mut used_up = 0;
        if let Some(known) = known {
            let request = &mut place[known];
            if request.call.is_of(now) {
                if request.repetitions < MAX_REPETITIONS {
                    request.repetitions += 1;
                    return (Arc::clone(&request.call), request.used_up);
                }
                used_up = request.used_up.saturating_add(1);
            }
            place.remove(known);
        }
        let call = Arc::new(Call::at(now));
        if place.len() >= REQUESTS {
            place.pop_front();
        }
        place.push_back(Request { hash, used_up, repetitions: 0, call: Arc::clone(&call) });
        (call, used_up)
    }

    /// Tells whether a process before this one may have recorded a call of the same request.
    pub(super) fn may_be_earlier(&self, now: DateTime<Utc>) -> bool {
        is_same_request(self.started_at, now)
    }
}

impl Call {
    fn at(now: DateTime<Utc>) -> Self {
        Self { at_us: AtomicI64::new(now.timestamp_micros()), fate: tokio::sync::Mutex::new(Fate::Open) }
    }

    /// Says when it was admitted, if it was.
    pub(super) fn set_at(&self, at: DateTime<Utc>) {
        self.at_us.store(at.timestamp_micros(), Ordering::Relaxed);
    }

    fn is_of(&self, now: DateTime<Utc>) -> bool {
        DateTime::from_timestamp_micros(self.at_us.load(Ordering::Relaxed))
            .is_some_and(|at| is_same_request(at, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn user(number: u128) -> UserId {
        UserId::new(Uuid::from_u128(number))
    }

    fn start() -> DateTime<Utc> {
        "2026-11-30T12:00:00Z".parse().unwrap()
    }

    fn hash(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn ten_repetitions_are_one_call_and_the_eleventh_is_another() {
        let requests = Requests::new(start());
        let ask = |at: i64| requests.ask(user(1), hash(1), start() + TimeDelta::seconds(at));
        let (first, used_up) = ask(0);
        assert_eq!(used_up, 0);
        for _ in 0..10 {
            assert!(Arc::ptr_eq(&ask(10).0, &first));
        }
        let (second, used_up) = ask(20);
        assert!(!Arc::ptr_eq(&second, &first));
        assert_eq!(used_up, 1);
        // A minute of the second one, not of the first.
        assert!(Arc::ptr_eq(&ask(79).0, &second));
        let (third, used_up) = ask(80);
        assert!(!Arc::ptr_eq(&third, &second));
        assert_eq!(used_up, 0, "another request");
    }

    /// Whatever is asked when: calls of the same hash that this process takes for different ones are a minute apart, so
    /// that the projector takes them for different ones too.
    #[test]
    fn two_calls_of_one_hash_are_never_within_a_minute() {
        for step_s in [1, 3, 5, 6, 7, 11, 29, 31, 59, 60, 61] {
            let requests = Requests::new(start());
            let mut last: std::collections::HashMap<u32, (usize, DateTime<Utc>)> =
                std::collections::HashMap::new();
            for number in 0..2_000 {
                let now = start() + TimeDelta::milliseconds(number * step_s * 100);
                let (call, used_up) = requests.ask(user(1), hash(1), now);
                let address = Arc::as_ptr(&call).addr();
                let at = DateTime::from_timestamp_micros(call.at_us.load(Ordering::Relaxed)).unwrap();
                if let Some((before, before_at)) = last.insert(used_up, (address, at))
                    && (before, before_at) != (address, at)
                {
                    assert!(!is_same_request(before_at, at), "{step_s}: {before_at} {at}");
                }
            }
        }
    }

    #[test]
    fn a_flood_is_bounded_and_forgets_few_of_the_others() {
        let requests = Requests::new(start());
        let others: Vec<_> = (0..2_000).map(|n| requests.ask(user(n), hash(n), start()).0).collect();
        for n in 0..100_000 {
            requests.ask(user(1 << 70), hash(1 << 64 | n), start());
        }
        let kept = (0..)
            .zip(&others)
            .filter(|(n, call)| Arc::ptr_eq(&requests.ask(user(*n), hash(*n), start()).0, call));
        assert!(kept.count() >= 1_980, "one place in a thousand is the flood's");
        for n in 0..1_000_000 {
            requests.ask(user(n), hash(1 << 65 | n), start());
        }
        assert!(requests.places.iter().all(|place| place.lock().len() <= REQUESTS));
        assert!(size_of::<Request>() + size_of::<Call>() <= 200, "{}", size_of::<Call>());
    }
}
