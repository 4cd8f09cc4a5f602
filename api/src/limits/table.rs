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

/// All tallies.
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
    max_users_per_shard: usize,
    /// Units that no reading contains yet, of all users.
    outstanding: AtomicU64,
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
            outstanding: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            floor: AtomicU64::new(u64::MAX),
        }
    }

    /// Works on the user's entry, a new one if there is none. Holds the shard's lock: `work` must be short.
    pub(super) fn with<R>(&self, user: UserId, work: impl FnOnce(&mut Entry) -> R) -> R {
        let mut shard = self.shard(user).lock();
        let shard = &mut *shard;
        if !shard.entries.contains_key(&user) {
            shard.make_room(self.max_users_per_shard);
            shard.queue.push_back(user);
        }
        let entry = shard.entries.entry(user).or_default();
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

    /// Units that no reading contains yet.
    pub(super) fn outstanding_units(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
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
        for shard in &self.shards {
            for entry in shard.lock().entries.values_mut() {
                entry.tally.forget_reading();
                entry.read_at = None;
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
        let before = entry.tally.outstanding_units();
        let result = work(entry);
        let after = entry.tally.outstanding_units();
        if after > before {
            self.outstanding.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            self.outstanding.fetch_sub(before - after, Ordering::Relaxed);
        }
        if (after > 0 || entry.tally.has_decisions()) && !entry.is_listed {
            entry.is_listed = true;
            unsettled.push(user);
        }
        result
    }

    fn shard(&self, user: UserId) -> &Mutex<Shard> {
        let bits = user.get().as_u128();
        // Both halves of the id: in a UUIDv7 the upper one is time, in our own row ids both are random.
        let folded = (bits >> 64) ^ bits;
        &self.shards[usize::try_from(folded % SHARDS as u128).unwrap_or(0)]
    }
}

impl Shard {
    /// Forgets a user who has not been used for a whole round, if there is one among the first few. What is not
    /// settled is kept, and bounded by `MAX_UNPROJECTED`.
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
            table.with(user(number), |entry| entry.tally.report(month(), cost, 7));
        }
        for number in 500..10_000 {
            table.with(user(number), |_| ());
        }
        assert_eq!(table.outstanding_units(), 1_000);
        for number in 0..500 {
            let units = table.with_known(user(number), |entry| entry.tally.outstanding_units(), || 0);
            assert_eq!(units, 2);
        }
    }

    #[test]
    fn users_are_listed_when_a_reading_would_help() {
        let table = Table::with_capacity(100);
        let cost = Used::default().plus(Category::Other, 1);
        table.with(user(1), |entry| entry.tally.report(month(), cost, 7));
        table.with(user(2), |entry| entry.tally.report(month(), cost, 9));
        assert_eq!(table.take_unsettled(6), []);
        assert_eq!(table.take_unsettled(8), [user(1)]);
        assert_eq!(table.take_unsettled(8), [], "named once");
        table.with(user(1), |entry| entry.tally.report(month(), cost, 8));
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
        };
        table.with(user(1), |entry| entry.tally.refresh(snapshot));
        assert!(!is_kept(&table));
        assert_eq!(table.take_unsettled(u64::MAX), []);
    }
}
