//! Maps by ids that are random already, and maps that forget what is old.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use chrono::{DateTime, TimeDelta, Utc};

/// A hash for keys that hold random bits: one multiplication a word.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct IdHasher(u64);

impl IdHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(26) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn write_u128(&mut self, word: u128) {
        self.write(&word.to_le_bytes());
    }
}

/// The same id at another time is another row.
pub(super) fn with_time(id: u128, time_us: i64) -> u128 {
    id ^ u128::from(time_us.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

pub(super) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;
pub(super) type IdSet<K> = HashSet<K, BuildHasherDefault<IdHasher>>;

/// A map that keeps what was put into it for at least a period of the log's time, and at most two.
#[derive(Debug)]
pub(super) struct Recent<V> {
    period: TimeDelta,
    since: Option<DateTime<Utc>>,
    young: IdMap<u128, V>,
    old: IdMap<u128, V>,
}

impl<V> Recent<V> {
    pub(super) fn new(period: TimeDelta) -> Self {
        Self { period, since: None, young: IdMap::default(), old: IdMap::default() }
    }

    /// The log is at this time now.
    pub(super) fn advance(&mut self, now: DateTime<Utc>) {
        let since = *self.since.get_or_insert(now);
        if now - since > self.period {
            self.old = std::mem::take(&mut self.young);
            self.since = Some(now);
        }
    }

    /// Puts it in; `false` when the id is there already, which stays as it is.
    pub(super) fn insert(&mut self, id: u128, value: V) -> bool {
        if !self.old.is_empty() && self.old.contains_key(&id) {
            return false;
        }
        match self.young.entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(value);
                true
            }
        }
    }

    /// Puts it in, whatever was there.
    pub(super) fn put(&mut self, id: u128, value: V) {
        self.young.insert(id, value);
    }

    pub(super) fn get_mut(&mut self, id: u128) -> Option<&mut V> {
        self.young.get_mut(&id).or_else(|| self.old.get_mut(&id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_two_periods_is_forgotten() {
        let start = DateTime::<Utc>::UNIX_EPOCH;
        let mut recent = Recent::new(TimeDelta::hours(1));
        recent.advance(start);
        assert!(recent.insert(7, 'a'));
        assert!(!recent.insert(7, 'b'));
        recent.advance(start + TimeDelta::minutes(61));
        assert_eq!(recent.get_mut(7), Some(&mut 'a'), "kept for more than a period");
        assert!(!recent.insert(7, 'b'));
        recent.advance(start + TimeDelta::minutes(130));
        assert_eq!(recent.get_mut(7), None);
        assert!(recent.insert(7, 'c'));
        recent.advance(start + TimeDelta::minutes(200));
        recent.put(7, 'd');
        assert_eq!(recent.get_mut(7), Some(&mut 'd'), "the newest counts");
    }
}
