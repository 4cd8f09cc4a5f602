//! Maps and sets by ids that are random already.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use uuid::Uuid;

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

/// Which of `ways` an id goes; another `level` divides those that went one way anew.
pub(super) fn way(id: u128, level: u32, ways: usize) -> usize {
    let (high, low) = Uuid::from_u128(id).as_u64_pair();
    let halves = high ^ low.rotate_left(32);
    // The finish of splitmix64.
    let mut word = halves ^ u64::from(level + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^= word >> 31;
    usize::try_from((u128::from(word) * ways as u128) >> 64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_divides_evenly() {
        let id = |n: u128| (n << 80) | 0x7000 << 64 | n;
        for level in 0..3 {
            let mut counts = [0_usize; 10];
            for n in 0..10_000 {
                counts[way(id(n), level, 10)] += 1;
            }
            assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
        }
        let first: Vec<u128> = (0..100_000).map(id).filter(|id| way(*id, 0, 10) == 3).collect();
        let again = first.iter().filter(|id| way(**id, 1, 10) == 3).count();
        assert!((800..1_200).contains(&again), "{again} of {}", first.len());
    }
}
