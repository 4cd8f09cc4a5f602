//! Tally of what one user has used and may still use. Pure: no clock, no I/O, so that its promise can be checked by
//! itself.
//!
//! used = what the projection counted at a watermark, read in one snapshot, + our own units that this count cannot
//! hold yet: not acknowledged, of unknown fate, or at a position beyond the watermark. A unit is therefore never
//! missing from the sum; for an instant it may be in it twice, which only refuses.

use std::collections::VecDeque;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use ledger::Month;
use ledger::limit::Used;
use store::read::limit_inputs::Terms;

use super::ask::Standing;
use super::counts::Counts;

/// Positions of one user and month that are kept apart. Beyond it neighbours are joined at the later position.
const MAX_POSITIONS: usize = 64;

/// A change of plan as decided: in force from `effective_at` until a later decision is.
#[derive(Debug, Clone)]
pub struct PlanDecision {
    /// Sequence of its frame in the log.
    pub seq: u64,
    /// First instant at which it holds.
    pub effective_at: DateTime<Utc>,
    /// Terms that hold then.
    pub terms: Arc<Terms>,
}

/// One consistent reading of the projections about one user.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// Sequence up to which the log is contained in it.
    pub(super) watermark: u64,
    /// First of the three months that were read.
    pub(super) first_month: Month,
    /// Counted units since the month's last reset, of `first_month` and the two after it.
    pub(super) counted: [Used; Snapshot::MONTHS],
    /// The plan in force when it was read.
    pub(super) current: Arc<Terms>,
    /// Time from which it is; none for one that was never decided.
    pub(super) current_from: Option<DateTime<Utc>>,
    /// A later decision that is not in force yet.
    pub(super) pending: Option<PlanDecision>,
}

impl Snapshot {
    /// The month before, the present one and the next: no request needs a reading when a month turns.
    pub(super) const MONTHS: usize = 3;

    fn counted(&self, month: Month) -> Option<Used> {
        let mut at = self.first_month;
        for counted in self.counted {
            if at == month {
                return Some(counted);
            }
            at = at.next();
        }
        None
    }
}

/// The counts and plan of one user.
#[derive(Debug, Default)]
pub(super) struct Tally {
    months: Vec<MonthTally>,
    read: Option<Read>,
    /// Our own decisions beyond the snapshot's watermark, in log order.
    decisions: Vec<PlanDecision>,
    /// Terms at an instant before the plan was decided that is in force, as they were looked up for the last decision
    /// about such an instant.
    earlier: Option<(DateTime<Utc>, Arc<Terms>)>,
}

#[derive(Debug)]
struct Read {
    watermark: u64,
    first_month: Month,
    current: Arc<Terms>,
    current_from: Option<DateTime<Utc>>,
    pending: Option<PlanDecision>,
}

impl Read {
    fn covers(&self, month: Month) -> bool {
        self.first_month <= month && month <= self.first_month.next().next()
    }
}

#[derive(Debug)]
struct MonthTally {
    month: Month,
    /// Counted by the projection, at the snapshot's watermark.
    counted: Used,
    /// Calls of ours beyond it: a sum over `beyond` and of what has no position yet.
    outstanding: Calls,
    /// Calls of ours beyond it by sequence, ascending.
    beyond: VecDeque<(u64, Calls)>,
}

/// Calls, and the sums of their units.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Calls {
    number: u64,
    used: Used,
}

impl Calls {
    fn one(used: Used) -> Self {
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

impl Counts for Tally {
    fn standing(&self, at: DateTime<Utc>, month: Month) -> Option<Standing> {
        let read = self.read.as_ref().filter(|read| read.covers(month))?;
        let used = self
            .months
            .iter()
            .find(|tally| tally.month == month)
            .map_or_else(Used::default, MonthTally::used);
        Some(Standing { terms: self.terms(read, at)?, month, used })
    }

    fn take(&mut self, month: Month, cost: Used) {
        self.month(month).outstanding.add(Calls::one(cost));
    }

    fn release(&mut self, month: Month, cost: Used) {
        self.month(month).outstanding.subtract(Calls::one(cost));
    }

    fn settle(&mut self, month: Month, cost: Used, seq: u64) {
        self.settle_calls(month, Calls::one(cost), seq);
    }
}

impl Tally {
    /// Counts so many calls of this cost together, which happened and are in the log at this sequence.
    pub(super) fn report(&mut self, month: Month, cost: Used, calls: u64, seq: u64) {
        let calls = Calls { number: calls, used: cost };
        self.month(month).outstanding.add(calls);
        self.settle_calls(month, calls, seq);
    }

    fn settle_calls(&mut self, month: Month, calls: Calls, seq: u64) {
        let covered = self.read.as_ref().is_some_and(|read| read.watermark >= seq);
        let tally = self.month(month);
        if covered {
            tally.outstanding.subtract(calls);
        } else {
            tally.keep_until(seq, calls);
        }
    }

    /// Takes over a decision about the plan that is in the log.
    pub(super) fn decide_plan(&mut self, decision: PlanDecision) {
        if self.read.as_ref().is_some_and(|read| read.watermark >= decision.seq) {
            return;
        }
        let at = self.decisions.partition_point(|earlier| earlier.seq <= decision.seq);
        self.decisions.insert(at, decision);
    }

    /// Takes over a reading, unless a newer one is there already.
    pub(super) fn refresh(&mut self, snapshot: Snapshot) {
        let watermark = snapshot.watermark;
        if self.read.as_ref().is_some_and(|read| read.watermark > watermark) {
            return;
        }
        let mut month = snapshot.first_month;
        for counted in snapshot.counted {
            if counted != Used::default() {
                self.month(month).counted = counted;
            }
            month = month.next();
        }
        for tally in &mut self.months {
            tally.counted = snapshot.counted(tally.month).unwrap_or_default();
            tally.forget_until(watermark);
        }
        self.decisions.retain(|decision| decision.seq > watermark);
        let read = Read {
            watermark,
            first_month: snapshot.first_month,
            current: snapshot.current,
            current_from: snapshot.current_from,
            pending: snapshot.pending,
        };
        self.months.retain(|tally| {
            !tally.is_settled() || (read.covers(tally.month) && tally.counted != Used::default())
        });
        self.read = Some(read);
    }

    /// Forgets the last reading, which may be of a log that is no more. What is not settled stays.
    pub(super) fn forget_reading(&mut self) {
        self.read = None;
        self.months.retain(|tally| !tally.is_settled());
        for tally in &mut self.months {
            tally.counted = Used::default();
        }
    }

    /// The watermark of the last reading.
    pub(super) fn watermark(&self) -> Option<u64> {
        self.read.as_ref().map(|read| read.watermark)
    }

    /// Tells whether nothing would be lost if it were forgotten and read anew.
    pub(super) fn is_settled(&self) -> bool {
        self.decisions.is_empty() && self.months.iter().all(MonthTally::is_settled)
    }

    /// Calls of ours that the last reading does not contain.
    pub(super) fn outstanding_calls(&self) -> u64 {
        self.months.iter().map(|tally| tally.outstanding.number).sum()
    }

    /// Tells whether a decision about the plan is kept that the last reading does not contain.
    pub(super) fn has_decisions(&self) -> bool {
        !self.decisions.is_empty()
    }

    /// The lowest position that the last reading does not contain yet.
    pub(super) fn next_position(&self) -> Option<u64> {
        let calls = self.months.iter().filter_map(|tally| tally.beyond.front()).map(|(seq, _)| *seq);
        calls.chain(self.decisions.first().map(|decision| decision.seq)).min()
    }

    /// Tells whether the last reading does not say which terms were in force at the instant: a later decision has
    /// replaced them. A request that is tried again is decided by its first try's instant.
    pub(super) fn lacks_terms(&self, at: DateTime<Utc>) -> bool {
        self.read.as_ref().is_some_and(|read| self.terms(read, at).is_none())
    }

    /// Says which terms were in force at an instant of which the last reading does not say it. They never change: what
    /// is decided later is in force later.
    pub(super) fn set_earlier_terms(&mut self, at: DateTime<Utc>, terms: Arc<Terms>) {
        self.earlier = Some((at, terms));
    }

    /// The plan at an instant is the last one in the log with `effective_at` at or before it.
    fn terms(&self, read: &Read, at: DateTime<Utc>) -> Option<Arc<Terms>> {
        let decided =
            self.decisions.iter().rev().chain(&read.pending).find(|decision| decision.effective_at <= at);
        let known = match decided {
            Some(decision) => Some(&decision.terms),
            None if read.current_from.is_none_or(|from| from <= at) => Some(&read.current),
            None => self.earlier.as_ref().filter(|(instant, _)| *instant == at).map(|(_, terms)| terms),
        };
        known.map(Arc::clone)
    }

    fn month(&mut self, month: Month) -> &mut MonthTally {
        let at = self.months.iter().position(|tally| tally.month == month).unwrap_or_else(|| {
            self.months.push(MonthTally::new(month));
            self.months.len() - 1
        });
        &mut self.months[at]
    }
}

impl MonthTally {
    fn new(month: Month) -> Self {
        Self { month, counted: Used::default(), outstanding: Calls::default(), beyond: VecDeque::new() }
    }

    fn used(&self) -> Used {
        let mut used = self.counted;
        used.add(self.outstanding.used);
        used
    }

    fn is_settled(&self) -> bool {
        self.outstanding == Calls::default()
    }

    /// Acknowledgements come nearly in order, so the search starts at the end.
    fn keep_until(&mut self, seq: u64, calls: Calls) {
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

    fn forget_until(&mut self, watermark: u64) {
        while let Some((seq, calls)) = self.beyond.front().copied() {
            if seq > watermark {
                break;
            }
            self.outstanding.subtract(calls);
            self.beyond.pop_front();
        }
        if self.beyond.is_empty() {
            self.beyond.shrink_to(4);
        }
    }
}

/// Sums of both meters. Saturating: a sum that could wrap would admit.
trait Sums {
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

#[cfg(test)]
mod tests;
