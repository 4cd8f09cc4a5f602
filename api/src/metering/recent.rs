//! Calls of late that this process has recorded or completed: they are completed without a look at the projections,
//! which may not have them yet.
//!
//! A memory and not the truth. What it has forgotten is found in the rows, and once a completion is projected the row
//! says which one it was: another instance may have completed the call before.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, Utc};
use ledger::UserId;
use parking_lot::Mutex;
use uuid::Uuid;

use super::outcomes::{Completion, MAX_AGE};

/// Calls share this many places by the last byte of their ids, which is random.
const PLACES: usize = 16;
/// Calls that a place remembers; the oldest make room. A call takes 104 bytes and 25 of an index, so that all of them
/// take 34 MB at most: ten seconds of 20,000 calls a second, an hour of 60.
const CALLS_OF_PLACE: usize = 14_336;
/// Calls older than an hour that make room at once: more than come, so that few stay for long.
const EXPIRED_AT_ONCE: usize = 4;

/// Calls of late. Bounded; the oldest are forgotten first, and all after an hour.
#[derive(Default)]
pub(crate) struct RecentCalls {
    places: [Mutex<Place>; PLACES],
}

/// A call that this process has recorded, or found in the rows and completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecentCall {
    pub(super) user: UserId,
    /// The admission instant.
    pub(super) at: DateTime<Utc>,
    /// Sequence of the log at or before which the call stands.
    pub(super) seq: u64,
    /// Whether it counts.
    pub(super) counted: bool,
    /// Whether a call of the same request, recorded elsewhere, may stand in the rows instead of it.
    pub(super) is_named: bool,
    /// Its completion by this process.
    pub(super) completion: Option<Completion>,
}

/// Completions of calls that a place has forgotten: before the rows tell about a call that is not remembered, they must
/// hold these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Forgotten {
    /// The highest sequence of one.
    pub(super) seq: u64,
    /// Whether one is among them of which nobody knows whether it is in the log.
    pub(super) is_lost: bool,
}

#[derive(Default)]
struct Place {
    /// In the order in which they came.
    calls: VecDeque<(Uuid, RecentCall)>,
    /// Number of the first of `calls`.
    first: u64,
    /// Number of each.
    by_id: HashMap<Uuid, u64>,
    forgotten: Forgotten,
}

impl RecentCalls {
    /// Remembers the call as it is now.
    pub(super) fn put(&self, call_id: Uuid, call: RecentCall, now: DateTime<Utc>) {
        self.place(call_id).lock().put(call_id, call, now);
    }

    /// The call, if it is remembered.
    pub(super) fn get(&self, call_id: Uuid) -> Option<RecentCall> {
        self.place(call_id).lock().get_mut(call_id).copied()
    }

    /// Completions that the rows must hold before they tell about this call, which is not remembered.
    pub(super) fn forgotten(&self, call_id: Uuid) -> Forgotten {
        self.place(call_id).lock().forgotten
    }

    /// Says that completions of unknown fate which were forgotten by the time `before` was read are at or before `seq`
    /// in the log, or nowhere.
    pub(super) fn find_forgotten(&self, call_id: Uuid, before: Forgotten, seq: u64) {
        let forgotten = &mut self.place(call_id).lock().forgotten;
        // Another one may have been lost since then.
        if *forgotten == before {
            *forgotten = Forgotten { seq: seq.max(before.seq), is_lost: false };
        }
    }

    fn place(&self, call_id: Uuid) -> &Mutex<Place> {
        let [.., last] = call_id.into_bytes();
        &self.places[usize::from(last) % PLACES]
    }
}

impl Place {
    fn put(&mut self, call_id: Uuid, call: RecentCall, now: DateTime<Utc>) {
        if let Some(known) = self.get_mut(call_id) {
            *known = call;
            return;
        }
        for _ in 0..EXPIRED_AT_ONCE {
            match self.calls.front() {
                Some((_, oldest)) if now > oldest.at + MAX_AGE => self.forget_first(),
                _ => break,
            }
        }
        if self.calls.len() >= CALLS_OF_PLACE {
            self.forget_first();
        }
        self.by_id.insert(call_id, self.first + self.calls.len() as u64);
        self.calls.push_back((call_id, call));
    }

    fn get_mut(&mut self, call_id: Uuid) -> Option<&mut RecentCall> {
        let number = *self.by_id.get(&call_id)?;
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.calls.get_mut(at).map(|(_, call)| call)
    }

    fn forget_first(&mut self) {
        let Some((call_id, call)) = self.calls.pop_front() else { return };
        self.first += 1;
        self.by_id.remove(&call_id);
        match call.completion {
            Some(Completion::Recorded(completed)) => {
                self.forgotten.seq = self.forgotten.seq.max(completed.seq);
            }
            Some(Completion::Lost) => self.forgotten.is_lost = true,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use ledger::StatusCode;

    use super::super::outcomes::{CallEnd, Completed};
    use super::*;

    fn call(at: DateTime<Utc>) -> RecentCall {
        let user = UserId::new(Uuid::from_u128(1));
        RecentCall { user, at, seq: 1, counted: true, is_named: false, completion: None }
    }

    fn completed(seq: u64) -> Completion {
        let status_code = StatusCode::new(200).unwrap();
        let end = CallEnd { status_code, response_time_ms: None, response_size: None };
        Completion::Recorded(Completed { end, counted: true, seq })
    }

    /// Ids of one place.
    fn id(number: usize) -> Uuid {
        Uuid::from_u128((number as u128) << 8)
    }

    fn now() -> DateTime<Utc> {
        "2026-11-30T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_call_takes_as_much_memory_as_is_said() {
        assert!(size_of::<(Uuid, RecentCall)>() <= 104, "{}", size_of::<(Uuid, RecentCall)>());
    }

    #[test]
    fn the_oldest_make_room_and_what_they_were_completed_with_is_told() {
        let recent = RecentCalls::default();
        for number in 0..CALLS_OF_PLACE {
            recent.put(id(number), call(now()), now());
        }
        recent.put(id(0), RecentCall { completion: Some(completed(7)), ..call(now()) }, now());
        recent.put(id(1), RecentCall { completion: Some(Completion::Lost), ..call(now()) }, now());
        assert_eq!(recent.get(id(0)).and_then(|call| call.completion), Some(completed(7)));
        assert_eq!(recent.forgotten(id(0)), Forgotten::default());

        recent.put(id(CALLS_OF_PLACE), call(now()), now());
        assert_eq!(recent.get(id(0)), None);
        assert_eq!(recent.forgotten(id(0)), Forgotten { seq: 7, is_lost: false });
        recent.put(id(CALLS_OF_PLACE + 1), call(now()), now());
        let forgotten = recent.forgotten(id(1));
        assert_eq!(forgotten, Forgotten { seq: 7, is_lost: true });
        recent.find_forgotten(id(1), Forgotten::default(), 9);
        assert_eq!(recent.forgotten(id(1)), forgotten, "another one was lost meanwhile");
        recent.find_forgotten(id(1), forgotten, 9);
        assert_eq!(recent.forgotten(id(1)), Forgotten { seq: 9, is_lost: false });

        assert!((2..CALLS_OF_PLACE + 2).all(|number| recent.get(id(number)).is_some()));
        let place = recent.place(id(0)).lock();
        assert_eq!((place.calls.len(), place.by_id.len()), (CALLS_OF_PLACE, CALLS_OF_PLACE));
    }

    #[test]
    fn an_hour_later_a_call_is_forgotten() {
        let recent = RecentCalls::default();
        for number in 0..10 {
            recent.put(id(number), call(now()), now());
        }
        let later = now() + TimeDelta::minutes(61);
        for number in 10..13 {
            recent.put(id(number), call(later), later);
        }
        assert!((0..10).all(|number| recent.get(id(number)).is_none()));
        assert!((10..13).all(|number| recent.get(id(number)).is_some()));
    }
}
