//! Requests of late, so that one which a trusted proxy asks about several times is one call.
//!
//! nginx asks again after every internal redirect, other proxies when an answer was lost. This process answers a
//! repetition as it answered before; the projector tells apart what two processes, or one before and after a restart,
//! have recorded, by the hash that the events carry.
//!
//! What was refused is not remembered as an answer: a repetition is decided again, so that a larger plan shows at once,
//! and is no second refusal if nothing has changed. Of what failed it is remembered at most that it may be in the log.
//! `once` decides.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use events::is_same_request;
use ledger::UserId;
use parking_lot::Mutex;
use uuid::Uuid;

use super::call::Recorded;

/// Users share this many places by hash: whoever asks about many requests makes a few of the others forgotten.
const PLACES: usize = 16;
/// Requests that a place remembers. A request takes some 400 bytes, so all of them take 52 MB at most: a minute of
/// 2,000 requests a second.
const REQUESTS_OF_PLACE: usize = 8_192;
/// Requests of one user that are remembered; the oldest make room.
const REQUESTS_OF_USER: usize = 4_096;
/// Requests older than a minute that make room at once: more than come, so that few stay for long.
const EXPIRED_AT_ONCE: usize = 4;
/// Repetitions of a call. The next one is a call of its own: nobody has a request that is free for ever.
const MAX_REPETITIONS: u8 = 10;

/// Requests that trusted proxies asked about, with the calls that they are.
#[derive(Default)]
pub(crate) struct Requests {
    places: [Mutex<Place>; PLACES],
    hasher: RandomState,
}

/// Requests of some users, in the order in which they were first asked about.
#[derive(Default)]
struct Place {
    by_hash: HashMap<Uuid, Request>,
    order: BTreeMap<u64, (UserId, Uuid)>,
    /// Numbers in `order` of each user's requests, ascending, and of some that are gone.
    of_user: HashMap<UserId, VecDeque<u64>>,
    next_number: u64,
    /// The highest sequence in the log of a call whose request was forgotten within its minute.
    forgotten_seq: u64,
}

struct Request {
    /// Its place in the order.
    number: u64,
    call: Arc<Call>,
}

/// The call that a request is.
pub(super) struct Call {
    /// Calls of the same request whose repetitions are used up.
    pub(super) used_up: u32,
    /// Admission instant, in microseconds since 1970: that of the event, by which the projector decides too.
    at_us: AtomicI64,
    /// Held by whoever decides about it; others wait.
    pub(super) fate: tokio::sync::Mutex<Fate>,
}

/// What became of a call that was asked for.
pub(super) enum Fate {
    /// Nobody has decided.
    Open,
    Refused,
    /// The call with this id and instant may be in the log: nobody knows.
    Unknown {
        call_id: Uuid,
        at: DateTime<Utc>,
    },
    /// It is in the log, and was asked about so many times more.
    Recorded {
        recorded: Recorded,
        repetitions: u8,
    },
}

/// What a repetition is told.
pub(super) enum Repetition {
    /// There is nothing to tell: it is to be decided.
    Undecided,
    Recorded(Recorded),
    /// It is another call.
    UsedUp,
}

impl Requests {
    /// The call that a request is which is asked about now.
    pub(super) fn ask(&self, user: UserId, hash: Uuid, now: DateTime<Utc>) -> Arc<Call> {
        let mut place = self.place(user).lock();
        match place.by_hash.get(&hash) {
            Some(known) if known.call.is_of(now) => Arc::clone(&known.call),
            _ => place.remember(user, hash, 0, now),
        }
    }

    /// The call that a request is when the repetitions of this one are used up.
    pub(super) fn ask_another(
        &self,
        user: UserId,
        hash: Uuid,
        used_up: &Arc<Call>,
        now: DateTime<Utc>,
    ) -> Arc<Call> {
        let mut place = self.place(user).lock();
        match place.by_hash.get(&hash) {
            // Somebody else was here first.
            Some(known) if !Arc::ptr_eq(&known.call, used_up) && known.call.is_of(now) => {
                Arc::clone(&known.call)
            }
            _ => place.remember(user, hash, used_up.used_up.saturating_add(1), now),
        }
    }

    /// Position in the log up to which calls of this user's requests may have been forgotten here too soon.
    pub(super) fn forgotten_seq(&self, user: UserId) -> u64 {
        self.place(user).lock().forgotten_seq
    }

    fn place(&self, user: UserId) -> &Mutex<Place> {
        let place = usize::try_from(self.hasher.hash_one(user) % PLACES as u64).unwrap_or_default();
        &self.places[place]
    }
}

impl Place {
    fn remember(&mut self, user: UserId, hash: Uuid, used_up: u32, now: DateTime<Utc>) -> Arc<Call> {
        if let Some(former) = self.by_hash.get(&hash) {
            self.forget(former.number, now);
        }
        for _ in 0..EXPIRED_AT_ONCE {
            match self.order.first_key_value() {
                Some((&number, (_, oldest))) if self.is_expired(oldest, now) => self.forget(number, now),
                _ => break,
            }
        }
        if let Some(&oldest) =
            self.of_user.get(&user).filter(|own| own.len() >= REQUESTS_OF_USER).and_then(VecDeque::front)
        {
            self.forget(oldest, now);
        }
        if self.order.len() >= REQUESTS_OF_PLACE
            && let Some((&oldest, _)) = self.order.first_key_value()
        {
            self.forget(oldest, now);
        }
        let (number, call) = (self.next_number, Arc::new(Call::at(now, used_up)));
        self.next_number += 1;
        self.order.insert(number, (user, hash));
        self.of_user.entry(user).or_default().push_back(number);
        self.by_hash.insert(hash, Request { number, call: Arc::clone(&call) });
        call
    }

    fn is_expired(&self, hash: &Uuid, now: DateTime<Utc>) -> bool {
        self.by_hash.get(hash).is_none_or(|request| !request.call.is_of(now))
    }

    fn forget(&mut self, number: u64, now: DateTime<Utc>) {
        if let Some((user, hash)) = self.order.remove(&number) {
            if let Some(request) = self.by_hash.remove(&hash)
                && request.call.is_of(now)
                && let Ok(fate) = request.call.fate.try_lock()
                && let Fate::Recorded { recorded, .. } = &*fate
            {
                self.forgotten_seq = self.forgotten_seq.max(recorded.seq);
            }
            if let Some(own) = self.of_user.get_mut(&user) {
                while own.front().is_some_and(|number| !self.order.contains_key(number)) {
                    own.pop_front();
                }
                if own.is_empty() {
                    self.of_user.remove(&user);
                }
            }
        }
    }
}

impl Call {
    fn at(now: DateTime<Utc>, used_up: u32) -> Self {
        Self {
            used_up,
            at_us: AtomicI64::new(now.timestamp_micros()),
            fate: tokio::sync::Mutex::new(Fate::Open),
        }
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

impl Fate {
    /// A call that is in the log now.
    pub(super) fn recorded(recorded: Recorded) -> Self {
        Self::Recorded { recorded, repetitions: 0 }
    }

    /// What is told to who asks again. Only an answer uses up a repetition.
    pub(super) fn repeat(&mut self) -> Repetition {
        match self {
            Self::Recorded { recorded, repetitions } if *repetitions < MAX_REPETITIONS => {
                *repetitions += 1;
                Repetition::Recorded(recorded.clone())
            }
            Self::Recorded { .. } => Repetition::UsedUp,
            Self::Open | Self::Refused | Self::Unknown { .. } => Repetition::Undecided,
        }
    }
}

#[cfg(test)]
mod tests;
