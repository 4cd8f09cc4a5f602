//! Requests of late, so that one which a trusted proxy asks about several times is one call.
//!
//! nginx asks again after every internal redirect, other proxies when an answer was lost. This process answers a
//! repetition as it answered before; the projector tells apart what two processes, or one before and after a restart,
//! have recorded, by the hash that the events carry.
//!
//! What was refused is not remembered as an answer: a repetition is decided again, so that a larger plan shows at once,
//! and is no second refusal if nothing has changed. What failed is not remembered at all.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use events::{is_same_request, request_hash};
use ledger::UserId;
use ledger::ids::event_id_at;
use parking_lot::Mutex;
use uuid::Uuid;

use super::Metering;
use super::call::{Metered, MeteredCall, Particulars, Recorded};
use super::error::MeteringError;
use super::original::Original;
use crate::limits::{Preview, Refusal};

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
struct Call {
    /// Admission instant, in microseconds since 1970: that of the event, by which the projector decides too.
    at_us: AtomicI64,
    /// Held by whoever decides about it; others wait.
    fate: tokio::sync::Mutex<Fate>,
}

enum Fate {
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
    fn ask(&self, user: UserId, hash: Uuid, now: DateTime<Utc>) -> (Arc<Call>, u32) {
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
    fn may_be_earlier(&self, now: DateTime<Utc>) -> bool {
        is_same_request(self.started_at, now)
    }
}

impl Call {
    fn at(now: DateTime<Utc>) -> Self {
        Self { at_us: AtomicI64::new(now.timestamp_micros()), fate: tokio::sync::Mutex::new(Fate::Open) }
    }

    fn is_of(&self, now: DateTime<Utc>) -> bool {
        DateTime::from_timestamp_micros(self.at_us.load(Ordering::Relaxed))
            .is_some_and(|at| is_same_request(at, now))
    }
}

impl Metering {
    /// Records the call unless its request is one that was recorded before, and answers the same call then. Of those
    /// that ask at the same time one decides, the others wait for it.
    pub(super) async fn record_once(
        &self,
        call: MeteredCall,
        original: &Original<'_>,
        id: &[u8],
        particulars: Particulars<'_>,
    ) -> Result<Metered, MeteringError> {
        let parts = &self.0;
        let hash = |used_up| request_hash(call.user, original.method, &original.uri, id, used_up);
        let first_hash = hash(0);
        let (known, used_up) = parts.requests.ask(call.user, first_hash, call.at);
        let mut fate = known.fate.lock().await;
        match &*fate {
            Fate::Recorded(recorded) => return Ok(Metered::Recorded(recorded.clone())),
            Fate::Refused => {
                if let Some(refusal) = self.would_be_refused(&call).await? {
                    return Ok(Metered::Refused(refusal));
                }
            }
            Fate::Open => {}
        }
        // It may have waited for others.
        let at = parts.writer.now();
        let request = if used_up == 0 { first_hash } else { hash(used_up) };
        let call = MeteredCall { at, request: Some(request), ..call };
        if let Some(recorded) = self.recorded_earlier(&call, request).await? {
            known.at_us.store(recorded.at.timestamp_micros(), Ordering::Relaxed);
            *fate = Fate::Recorded(recorded.clone());
            return Ok(Metered::Recorded(recorded));
        }
        known.at_us.store(at.timestamp_micros(), Ordering::Relaxed);
        let metered = call.record(&parts.limits, &parts.sealer, event_id_at(at), particulars).await?;
        *fate = match &metered {
            Metered::Recorded(recorded) => Fate::Recorded(recorded.clone()),
            Metered::Refused(_) => Fate::Refused,
        };
        Ok(metered)
    }

    async fn would_be_refused(&self, call: &MeteredCall) -> Result<Option<Refusal>, MeteringError> {
        if !call.classified.counted {
            return Ok(None);
        }
        Ok(match self.0.limits.preview(call.user, call.ask()).await? {
            Preview::Allowed(_) => None,
            Preview::Refused(refusal) => Some(refusal),
        })
    }

    /// The request's call that was recorded before this process started, where that would be refused now: it may have
    /// taken the last unit. Any other is recorded anew, and the projector counts one of them. What was recorded before
    /// is projected, or nothing would be decided yet.
    async fn recorded_earlier(
        &self,
        call: &MeteredCall,
        request: Uuid,
    ) -> Result<Option<Recorded>, MeteringError> {
        if !self.0.requests.may_be_earlier(call.at) {
            return Ok(None);
        }
        let Some(refusal) = self.would_be_refused(call).await? else { return Ok(None) };
        let mut conn = self.0.projections.connection().await?;
        let found = store::read::requests::last_call(&mut conn, request).await?;
        Ok(found.filter(|found| is_same_request(found.created_at, call.at)).map(|found| Recorded {
            call_id: found.call_id,
            seq: found.seq,
            at: found.created_at,
            category: call.classified.category,
            standing: Some(refusal.standing().clone()),
            would_block: None,
        }))
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
