//! Ids that count once, in two generations as the log turns them, and for ever with the same time.
//!
//! Memory: 33 to 70 bytes for an id of the two generations, 17 to 40 for every call of an earlier one.

use super::ids::{IdMap, IdSet, with_time};

/// Claimed ids.
#[derive(Debug, Default)]
pub(super) struct Claims {
    generation: u64,
    /// With the call that each is of; none for other events.
    current: IdMap<u128, Option<i64>>,
    previous: IdMap<u128, Option<i64>>,
    /// The calls of ids that are forgotten.
    calls: IdSet<u128>,
}

impl Claims {
    /// Claims the id of an event that is no call; `false` when it is claimed already.
    pub(super) fn event(&mut self, id: u128) -> bool {
        self.claim(id, None)
    }

    /// Claims the id of a call of this time; `false` when it is claimed already, or was by the very same call.
    pub(super) fn call(&mut self, id: u128, time_us: i64) -> bool {
        self.claim(id, Some(time_us))
            && (self.calls.is_empty() || !self.calls.contains(&with_time(id, time_us)))
    }

    /// Ends the generation of this number, unless it has ended.
    pub(super) fn turn(&mut self, ended: u64) {
        if ended < self.generation {
            return;
        }
        self.generation = ended.saturating_add(1);
        let forgotten = std::mem::replace(&mut self.previous, std::mem::take(&mut self.current));
        let calls = forgotten.into_iter().filter_map(|(id, time_us)| Some(with_time(id, time_us?)));
        self.calls.extend(calls);
    }

    fn claim(&mut self, id: u128, time_us: Option<i64>) -> bool {
        if !self.previous.is_empty() && self.previous.contains_key(&id) {
            return false;
        }
        match self.current.entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(time_us);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_claimed_for_two_generations_and_a_call_for_ever() {
        let mut claims = Claims::default();
        assert!(claims.call(1, 10) && claims.event(2));
        claims.turn(0);
        claims.turn(0);
        assert!(!claims.call(1, 11) && !claims.event(2), "turned once, however often it is said");
        claims.turn(1);
        assert!(claims.event(2));
        assert!(!claims.call(1, 10), "the same call");
        assert!(!claims.call(1, 11), "which has claimed its id again");
        claims.turn(2);
        claims.turn(3);
        assert!(claims.call(1, 11));
        claims.turn(9);
        assert!(!claims.call(1, 12));
        claims.turn(9);
        assert!(!claims.call(1, 12));
        claims.turn(10);
        assert!(claims.call(1, 12), "another call");
    }
}
