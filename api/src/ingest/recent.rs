//! Ids of reported calls that are on disk, as far as they are remembered.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem;

use parking_lot::RwLock;
use uuid::Uuid;

/// Ids in one generation; two are kept, so that at least so many of the latest ids are known. As many as a table of
/// 2^18 places holds: some 5 MB.
const GENERATION: usize = 229_376;

/// Bounded: when a generation is full, the one before it is forgotten.
pub(super) struct Recent(RwLock<Generations>);

#[derive(Default)]
struct Generations {
    young: Ids,
    old: Ids,
}

type Ids = HashSet<Uuid, BuildHasherDefault<Prefix>>;

impl Recent {
    pub(super) fn new() -> Self {
        Self(RwLock::default())
    }

    pub(super) fn contains(&self, id: Uuid) -> bool {
        let generations = self.0.read();
        generations.young.contains(&id) || generations.old.contains(&id)
    }

    pub(super) fn insert(&self, ids: impl Iterator<Item = Uuid>) {
        let mut generations = self.0.write();
        for id in ids {
            if generations.young.len() >= GENERATION {
                generations.old = mem::take(&mut generations.young);
            }
            generations.young.insert(id);
        }
    }
}

/// The ids are hashes already (SHA-256), so their first bytes serve as one.
#[derive(Default)]
struct Prefix(u64);

impl Hasher for Prefix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(prefix) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*prefix);
        }
    }

    /// The length prefix of the bytes is no part of the hash.
    fn write_usize(&mut self, _length: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::derived_id;

    #[test]
    fn the_latest_ids_are_known_and_memory_is_bounded() {
        let recent = Recent::new();
        let id = |number: usize| derived_id(&[&number.to_be_bytes()]);
        for number in 0..1_000_000 {
            recent.insert(std::iter::once(id(number)));
        }
        assert!((1_000_000 - GENERATION..1_000_000).all(|number| recent.contains(id(number))));
        assert!(!recent.contains(id(0)));
        let generations = recent.0.read();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
    }
}
