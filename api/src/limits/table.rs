//! The tallies of all users: sharded, bounded, never forgetting what is not settled.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ledger::UserId;
use parking_lot::Mutex;

use super::tally::Tally;

/// Users whose tallies are kept. Beyond it those that were not used lately are forgotten and read again when needed.
const MAX_USERS: usize = 100_000;
const SHARDS: usize = 64;
/// Users that are looked at to find one to forget. Bounds the time that the lock is held.
const EVICTION_TRIES: usize = 16;
/// Slots for the positions of calls that were reported of users whom the table does not hold. A power of two.
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 16;

/// All tallies.
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
    max_users_per_shard: usize,
    /// By hash of the user: the highest position of a call that was reported when the table did not hold its user.
    reported: Box<[AtomicU64]>,
    /// Calls that no reading contains yet, of all users.
    outstanding: AtomicU64,
    /// Users who have such calls.
    users_outstanding: AtomicU64,
    /// Number of times that all readings were forgotten.
    generation: AtomicU64,
    /// Lowest watermark of a reading that contains what was admitted elsewhere.
    floor: AtomicU64,
}

/// Memory of one user.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) tally: Tally,
    /// Instant of the last reading.
    pub(super) read_at: Option<Instant>,
    /// The highest sequence of an event that gives units back: an earlier reading cannot show it.
    pub(super) less_at: u64,
    /// Lowest watermark of a reading that contains what was reported of the user before this memory of it began. A
    /// call reported since then is in the tally.
    pub(super) needed_seq: u64,
    used_lately: bool,
    is_listed: bool,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<UserId, Entry>,
    /// The users in the order in which they are considered for forgetting (second chance).
    queue: VecDeque<UserId>,
    /// Users with units or decisions that a later reading may contain.
    unsettled: Vec<UserId>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self::with_capacity(MAX_USERS)
    }

    fn with_capacity(max_users: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            max_users_per_shard: max_users.div_ceil(SHARDS),
            reported: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            outstanding: AtomicU64::new(0),
            users_outstanding: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            floor: AtomicU64::new(u64::MAX),
        }
    }

    /// Works on the user's entry, a new one if there is none. Holds the shard's lock: `work` must be short.
    pub(super) fn with<R>(&self, user: UserId, work: impl FnOnce(&mut Entry) -> R) -> R {
        let mut shard = self.shard(user).lock();
        let shard = &mut *shard;
        if let Some(entry) = shard.entries.get_mut(&user) {
            entry.used_lately = true;
            return self.work(entry, user, &mut shard.unsettled, work);
        }
        shard.make_room(self.max_users_per_shard);
        shard.queue.push_back(user);
        let entry = shard.entries.entry(user).or_insert_with(|| Entry {
            // Under the shard's lock, as all that writes it for this user.
            needed_seq: self.slot(user).load(Ordering::Relaxed),
            ..Entry::default()
        });
        entry.used_lately = true;
        self.work(entry, user, &mut shard.unsettled, work)
    }

    /// Works on the user's entry if there is one, else does `otherwise`, both under the shard's lock.
    pub(super) fn with_known<R>(
        &self,
        user: UserId,
        work: impl FnOnce(&mut Entry) -> R,
        otherwise: impl FnOnce() -> R,
    ) -> R {
        let mut shard = self.shard(user).lock();
        let shard = &mut *shard;
        match shard.entries.get_mut(&user) {
            Some(entry) => self.work(entry, user, &mut shard.unsettled, work),
            None => otherwise(),
        }
    }

    /// Notes calls of the user that were reported, and are in the log at `seq`: by `work` on the user's entry, or as a
    /// position that a reading must have reached when the user gets one.
    pub(super) fn report(&self, user: UserId, seq: u64, work: impl FnOnce(&mut Entry)) {
        self.with_known(user, work, || {
            self.slot(user).fetch_max(seq, Ordering::Relaxed);
        });
    }

    /// Calls that no reading contains yet.
    pub(super) fn outstanding_calls(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Users who have calls that no reading contains yet.
    pub(super) fn users_outstanding(&self) -> u64 {
        self.users_outstanding.load(Ordering::Relaxed)
    }

    /// The users of whom a reading at this watermark would contain more. Each is named once for every time that it
    /// has become unsettled.
    pub(super) fn take_unsettled(&self, watermark: u64) -> Vec<UserId> {
        let mut ready = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            let Shard { entries, unsettled, .. } = &mut *shard;
            unsettled.retain(|user| {
                let Some(entry) = entries.get_mut(user) else { return false };
                let is_ready = entry.tally.next_position().is_some_and(|seq| seq <= watermark);
                if is_ready {
                    entry.is_listed = false;
                    ready.push(*user);
                }
                !is_ready
            });
        }
        ready
    }

    /// Number of times that all readings were forgotten. What was begun to be read under another number is out of date;
    /// to be compared under the lock of [`Table::with_known`].
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Lowest watermark of a reading that contains what was admitted elsewhere. Before [`Table::set_floor`] none does.
    pub(super) fn floor(&self) -> u64 {
        self.floor.load(Ordering::Acquire)
    }

    /// Says that readings at `seq` and later contain what was admitted elsewhere.
    pub(super) fn set_floor(&self, seq: u64) {
        self.floor.store(seq, Ordering::Release);
    }

    /// Forgets what was read of all users, and nothing else: each is read anew before the next decision.
    pub(super) fn forget_readings(&self) {
        // First, so that a reading that is under way is not taken over behind the sweep.
        self.generation.fetch_add(1, Ordering::AcqRel);
        // What was reported until now is contained in readings at the next floor; as positions of a log that is no
        // more they might not be reached again.
        for slot in &self.reported {
            slot.store(0, Ordering::Relaxed);
        }
        for shard in &self.shards {
            for entry in shard.lock().entries.values_mut() {
                entry.tally.forget_reading();
                entry.read_at = None;
                entry.needed_seq = 0;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().entries.len()).sum()
    }

    fn work<R>(
        &self,
        entry: &mut Entry,
        user: UserId,
        unsettled: &mut Vec<UserId>,
        work: impl FnOnce(&mut Entry) -> R,
    ) -> R {
        let before = entry.tally.outstanding_calls();
        let result = work(entry);
        let after = entry.tally.outstanding_calls();
        if after > before {
            self.outstanding.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            self.outstanding.fetch_sub(before - after, Ordering::Relaxed);
        }
        match (before, after) {
            (0, 1..) => drop(self.users_outstanding.fetch_add(1, Ordering::Relaxed)),
            (1.., 0) => drop(self.users_outstanding.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        if (after > 0 || entry.tally.has_decisions()) && !entry.is_listed {
            entry.is_listed = true;
            unsettled.push(user);
        }
        result
    }

    fn shard(&self, user: UserId) -> &Mutex<Shard> {
        &self.shards[usize::try_from(folded(user) % SHARDS as u64).unwrap_or(0)]
    }

    fn slot(&self, user: UserId) -> &AtomicU64 {
        &self.reported[slot_of(user)]
    }
}

/// Both halves of the id: in a UUIDv7 the upper one is time, in our own row ids both are random.
fn folded(user: UserId) -> u64 {
    let (upper, lower) = user.get().as_u64_pair();
    upper ^ lower
}

/// Fibonacci hashing (Knuth, TAOCP 3, section 6.4): the upper bits of a product with 2^64 divided by the golden ratio.
fn slot_of(user: UserId) -> usize {
    let hash = folded(user).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - SLOT_BITS);
    usize::try_from(hash).unwrap_or(0)
}

impl Shard {
    /// Forgets a user who has not been used for a whole round, if there is one among the first few. What is not
    /// settled is kept; so many users may have something unsettled as the limiter admits.
    fn make_room(&mut self, max_users: usize) {
        for _ in 0..EVICTION_TRIES {
            if self.entries.len() < max_users {
                return;
            }
            let Some(user) = self.queue.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&user) else { continue };
            if entry.used_lately || !entry.tally.is_settled() {
                entry.used_lately = false;
                self.queue.push_back(user);
            } else {
                self.entries.remove(&user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::{PlanDecision, Snapshot};
    use super::*;
    use ledger::limit::{Limits, Used};
    use ledger::{Category, Month, PlanName};
    use std::sync::Arc;
    use store::read::limit_inputs::Terms;
    use uuid::Uuid;

    fn user(number: u128) -> UserId {
        UserId::new(Uuid::from_u128(number))
    }

    fn month() -> Month {
        "2026-11".parse().expect("a month")
    }

    #[test]
    fn a_million_users_leave_it_bounded() {
        let table = Table::with_capacity(1_000);
        for number in 0..1_000_000 {
            table.with(user(number), |_| ());
        }
        // A shard may be full of users that were all used lately; then it grows by the tries of one round.
        assert!(table.len() <= 2 * 1_000, "{}", table.len());
        let queued: usize = table.shards.iter().map(|shard| shard.lock().queue.len()).sum();
        assert_eq!(queued, table.len());
    }

    #[test]
    fn what_is_not_settled_is_never_forgotten() {
        let table = Table::with_capacity(100);
        let cost = Used::default().plus(Category::Other, 2);
        for number in 0..500 {
            table.with(user(number), |entry| entry.tally.report(month(), cost.into(), 3, 7));
        }
        for number in 500..10_000 {
            table.with(user(number), |_| ());
        }
        assert_eq!((table.outstanding_calls(), table.users_outstanding()), (1_500, 500));
        for number in 0..500 {
            let calls = table.with_known(user(number), |entry| entry.tally.outstanding_calls(), || 0);
            assert_eq!(calls, 3);
        }
    }

    /// Another user whose slot is that of `of`.
    fn shares_slot(of: UserId, numbers: std::ops::Range<u128>) -> Option<UserId> {
        numbers.map(user).find(|other| *other != of && slot_of(*other) == slot_of(of))
    }

    #[test]
    fn what_is_reported_of_an_unknown_user_is_needed_by_it_and_delays_at_most_another() {
        let table = Table::with_capacity(100);
        let needed = |number| table.with(number, |entry| entry.needed_seq);
        let reported = user(1);
        let other = shares_slot(reported, 2..10_000_000).expect("a user with the same hash");
        let unrelated =
            (2..100).map(user).find(|user| slot_of(*user) != slot_of(reported)).expect("another hash");
        table.report(reported, 60, |_| unreachable!("nobody knows the user"));
        table.report(reported, 57, |_| unreachable!("nobody knows the user"));
        assert_eq!(needed(unrelated), 0);
        assert_eq!(needed(other), 60, "it waits for what is not its own");
        // From here on the other one is known: what is reported of it goes to its tally and delays nobody.
        let mut is_told = false;
        table.report(other, 70, |_| is_told = true);
        assert!(is_told);
        assert_eq!(needed(reported), 60);
        // And what is reported of the one that is known later does not move what a reading of it must have reached.
        let mut is_told = false;
        table.report(reported, 80, |_| is_told = true);
        assert!(is_told);
        assert_eq!(needed(reported), 60);
    }

    #[test]
    fn a_user_who_was_forgotten_needs_what_was_reported_meanwhile() {
        let table = Table::with_capacity(64);
        table.with(user(1), |_| ());
        for number in 2..1_000 {
            table.with(user(number), |_| ());
        }
        assert!(table.with_known(user(1), |_| false, || true), "it was kept");
        table.report(user(1), 60, |_| unreachable!("it was forgotten"));
        assert_eq!(table.with(user(1), |entry| entry.needed_seq), 60);
        table.forget_readings();
        assert_eq!(table.with(user(1), |entry| entry.needed_seq), 0, "the floor covers it");
    }

    #[test]
    fn users_spread_over_the_slots() {
        let ids = ledger::IdSource::default();
        let slots: std::collections::HashSet<usize> =
            (0..20_000).map(|_| slot_of(UserId::new(ids.random_id()))).collect();
        assert!(slots.len() > 15_000, "{}", slots.len());
    }

    #[test]
    fn users_are_listed_when_a_reading_would_help() {
        let table = Table::with_capacity(100);
        let cost = Used::default().plus(Category::Other, 1);
        table.with(user(1), |entry| entry.tally.report(month(), cost.into(), 1, 7));
        table.with(user(2), |entry| entry.tally.report(month(), cost.into(), 1, 9));
        assert_eq!(table.take_unsettled(6), []);
        assert_eq!(table.take_unsettled(8), [user(1)]);
        assert_eq!(table.take_unsettled(8), [], "named once");
        table.with(user(1), |entry| entry.tally.report(month(), cost.into(), 1, 8));
        assert_eq!(table.take_unsettled(8), [user(1)], "and again when there is more");
    }

    #[test]
    fn a_decision_about_a_plan_is_kept_until_a_reading_contains_it() {
        let table = Table::with_capacity(100);
        let limits = Limits { total: Some(500), analyze: Some(100) };
        let terms = Arc::new(Terms { plan: PlanName::free(), limits });
        let effective_at = month().start();
        let decision = PlanDecision { seq: 7, effective_at, terms: Arc::clone(&terms) };
        table.with(user(1), |entry| entry.tally.decide_plan(decision));
        for number in 2..1_000 {
            table.with(user(number), |_| ());
        }
        let is_kept =
            |table: &Table| table.with_known(user(1), |entry| entry.tally.has_decisions(), || false);
        assert!(is_kept(&table), "it was forgotten");
        assert_eq!(table.take_unsettled(6), []);
        assert_eq!(table.take_unsettled(7), [user(1)], "a reading would help");
        let snapshot = Snapshot {
            watermark: 7,
            first_month: month(),
            counted: [Used::default(); Snapshot::MONTHS],
            current: terms,
            current_from: None,
            pending: None,
            keys: Vec::new(),
        };
        table.with(user(1), |entry| entry.tally.refresh(snapshot));
        assert!(!is_kept(&table));
        assert_eq!(table.take_unsettled(u64::MAX), []);
    }
}
