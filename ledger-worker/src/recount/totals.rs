//! What tables should hold: each at the position of the log at which it was read.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use ledger::{KeyId, Month, UserId};
use store::operations::recount::{CallSums, KeptToken, Sums};
use store::projection::summaries::key_usage::KeyMonth;
use uuid::Uuid;

use super::ids::IdHasher;

/// Tables, and the last frame of the log that they held when they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// All summaries.
    Summaries { seq: u64 },
    /// The calls of a month.
    Calls { month: Month, seq: u64 },
    /// Audit chains and tokens.
    Vault { seq: u64 },
}

impl Cut {
    pub(super) fn seq(&self) -> u64 {
        match self {
            Self::Summaries { seq } | Self::Calls { seq, .. } | Self::Vault { seq } => *seq,
        }
    }
}

pub(super) type OfMonths<V> = HashMap<(UserId, Month), V, BuildHasherDefault<IdHasher>>;

/// Units by category that came after their month's closing, by user, month and the number of closings before them.
pub(super) type Late = HashMap<(UserId, Month, i32), [i64; 3], BuildHasherDefault<IdHasher>>;

/// What the tables should hold of some users.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) summaries: OfMonths<Sums>,
    pub(super) late: Late,
    pub(super) calls: OfMonths<CallSums>,
    /// Units by API key; none is 0.
    pub(super) keys: HashMap<KeyMonth, i64>,
    pub(super) tokens: HashMap<(UserId, String), Uuid>,
}

impl Totals {
    /// Adds a part of a month's sums; all parts know of the same resets.
    pub(super) fn add_sums(&mut self, user: UserId, month: Month, part: &Sums) {
        let sums = self.summaries.entry((user, month)).or_default();
        for (units, more) in sums.units.iter_mut().zip(part.units) {
            *units += more;
        }
        sums.total_response_time_ms += part.total_response_time_ms;
        sums.timed_calls += part.timed_calls;
        sums.last_updated = sums.last_updated.max(part.last_updated);
        sums.reset = sums.reset.max(part.reset);
    }

    /// Adds a part of what keys used in a user's month.
    pub(super) fn add_keys(&mut self, user: UserId, month: Month, part: &[(u128, i64)]) {
        for (key, units) in part {
            *self.keys.entry((user, month, KeyId::new(Uuid::from_u128(*key)))).or_default() += units;
        }
    }

    pub(super) fn add_late(&mut self, late: &Late) {
        for (key, part) in late {
            for (units, more) in self.late.entry(*key).or_default().iter_mut().zip(part) {
                *units += more;
            }
        }
    }

    pub(super) fn add_calls(&mut self, user: UserId, month: Month, part: &CallSums) {
        let sums = self.calls.entry((user, month)).or_default();
        sums.calls += part.calls;
        sums.counted_calls += part.counted_calls;
        for (units, more) in sums.units.iter_mut().zip(part.units) {
            *units += more;
        }
        sums.counted_units += part.counted_units;
        sums.total_response_time_ms += part.total_response_time_ms;
        sums.timed_calls += part.timed_calls;
        sums.checksum ^= part.checksum;
    }

    pub(super) fn add_token(&mut self, token: KeptToken) {
        self.tokens.insert((token.user, token.token_type), token.id);
    }
}
