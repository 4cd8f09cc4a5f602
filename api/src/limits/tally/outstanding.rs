//! Units of ours that the projection's count cannot hold yet.

use std::collections::VecDeque;

use ledger::limit::Used;

/// Positions that are kept apart. Beyond it neighbours are joined at the later position.
pub(super) const MAX_POSITIONS: usize = 64;

/// Calls of ours that the last reading does not contain.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    /// A sum over `beyond` and of what has no position yet.
    sum: Calls,
    /// Calls by sequence, ascending.
    beyond: VecDeque<(u64, Calls)>,
}

/// Calls, and the sums of their units.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Calls {
    pub(super) number: u64,
    pub(super) used: Used,
}

impl Calls {
    pub(super) fn one(used: Used) -> Self {
        Self { number: 1, used }
    }

    fn add(&mut self, other: Self) {
        self.number = self.number.saturating_add(other.number);
        self.used.add(other.used);
    }

    fn subtract(&mut self, other: Self) {
        debug_assert!(self.number >= other.number, "calls settled twice");
        self.number = self.number.saturating_sub(other.number);
        self.used.subtract(other.used);
    }
}

impl Outstanding {
    pub(super) fn sum(&self) -> Calls {
        self.sum
    }

    pub(super) fn is_settled(&self) -> bool {
        self.sum == Calls::default()
    }

    /// The lowest position that is known of them.
    pub(super) fn first_position(&self) -> Option<u64> {
        self.beyond.front().map(|(seq, _)| *seq)
    }

    #[cfg(test)]
    pub(super) fn positions(&self) -> usize {
        self.beyond.len()
    }

    pub(super) fn take(&mut self, calls: Calls) {
        self.sum.add(calls);
    }

    pub(super) fn give_back(&mut self, calls: Calls) {
        self.sum.subtract(calls);
    }

    /// Keeps calls, taken earlier, until a reading has reached this sequence.
    ///
    /// Acknowledgements come nearly in order, so the search starts at the end.
    pub(super) fn keep_until(&mut self, seq: u64, calls: Calls) {
        let mut at = self.beyond.len();
        while at > 0 && self.beyond[at - 1].0 > seq {
            at -= 1;
        }
        if at > 0 && self.beyond[at - 1].0 == seq {
            self.beyond[at - 1].1.add(calls);
            return;
        }
        self.beyond.insert(at, (seq, calls));
        if self.beyond.len() > MAX_POSITIONS {
            self.join_neighbours();
        }
    }

    /// Halves the list. Units then count until the later of two positions is covered, which only refuses.
    fn join_neighbours(&mut self) {
        let mut joined = VecDeque::with_capacity(MAX_POSITIONS);
        while let Some((seq, mut calls)) = self.beyond.pop_front() {
            let Some((later_seq, later_calls)) = self.beyond.pop_front() else {
                joined.push_back((seq, calls));
                break;
            };
            calls.add(later_calls);
            joined.push_back((later_seq, calls));
        }
        self.beyond = joined;
    }

    /// Forgets what a reading at this watermark contains.
    pub(super) fn forget_until(&mut self, watermark: u64) {
        while let Some((seq, calls)) = self.beyond.front().copied() {
            if seq > watermark {
                break;
            }
            self.sum.subtract(calls);
            self.beyond.pop_front();
        }
        if self.beyond.is_empty() {
            self.beyond.shrink_to(4);
        }
    }
}

/// Sums of both meters. Saturating: a sum that could wrap would admit.
pub(super) trait Sums {
    fn add(&mut self, other: Used);
    fn subtract(&mut self, other: Used);
}

impl Sums for Used {
    fn add(&mut self, other: Used) {
        self.total = self.total.saturating_add(other.total);
        self.analyze = self.analyze.saturating_add(other.analyze);
    }

    fn subtract(&mut self, other: Used) {
        debug_assert!(self.total >= other.total && self.analyze >= other.analyze, "units settled twice");
        self.total = self.total.saturating_sub(other.total);
        self.analyze = self.analyze.saturating_sub(other.analyze);
    }
}
