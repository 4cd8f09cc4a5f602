//! Tally of what one user has used and may still use. Pure: no clock, no I/O, so that its promise can be checked by
//! itself.
//!
//! used = what the projection counted at a watermark, read in one snapshot, + our own units that this count cannot
//! hold yet: not acknowledged, of unknown fate, or at a position beyond the watermark. A unit is therefore never
//! missing from the sum; for an instant it may be in it twice, which only refuses.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use ledger::limit::Used;
use ledger::{KeyId, Month};
use store::read::limit_inputs::Terms;

use super::ask::{Ask, Cost, KeyStanding, Standing};
use super::counts::Counts;

mod outstanding;

use outstanding::{Calls, Outstanding, Sums};

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
    /// Counted units of the API keys that were asked for, in the same months.
    pub(super) keys: Vec<(KeyId, [u64; Snapshot::MONTHS])>,
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
    /// API keys whose counts decisions need, and whether one did since the last reading.
    wanted: Vec<(KeyId, bool)>,
}

#[derive(Debug)]
struct Read {
    watermark: u64,
    first_month: Month,
    current: Arc<Terms>,
    current_from: Option<DateTime<Utc>>,
    pending: Option<PlanDecision>,
    keys: Vec<(KeyId, [u64; Snapshot::MONTHS])>,
}

impl Read {
    /// Counted units of the key in a month that it covers; none if the key was not asked for.
    fn counted_of(&self, key: KeyId, month: Month) -> Option<u64> {
        let (_, counted) = self.keys.iter().find(|(known, _)| *known == key)?;
        let mut at = self.first_month;
        for units in counted {
            if at == month {
                return Some(*units);
            }
            at = at.next();
        }
        None
    }

    fn covers(&self, month: Month) -> bool {
        self.first_month <= month && month <= self.first_month.next().next()
    }
}

#[derive(Debug)]
struct MonthTally {
    month: Month,
    /// Counted by the projection, at the snapshot's watermark.
    counted: Used,
    /// Calls of ours beyond it.
    outstanding: Outstanding,
    /// Those of them that came with an API key, by it.
    keys: Vec<(KeyId, Outstanding)>,
}

impl Counts for Tally {
    fn standing(&self, ask: &Ask) -> Option<Standing> {
        let month = ask.month;
        let read = self.read.as_ref().filter(|read| read.covers(month))?;
        let tally = self.months.iter().find(|tally| tally.month == month);
        let used = tally.map_or_else(Used::default, MonthTally::used);
        let key = match ask.budget() {
            Some((id, budget)) => {
                let counted = read.counted_of(id, month)?;
                let outstanding = tally.map_or(0, |tally| tally.outstanding_of(id));
                Some(KeyStanding { id, budget, used: counted.saturating_add(outstanding) })
            }
            None => None,
        };
        Some(Standing { terms: self.terms(read, ask.at)?, month, used, key })
    }

    fn take(&mut self, month: Month, cost: Cost) {
        self.month(month).outstanding(cost.key, |of| of.take(Calls::one(cost.used)));
    }

    fn release(&mut self, month: Month, cost: Cost) {
        self.month(month).outstanding(cost.key, |of| of.give_back(Calls::one(cost.used)));
    }

    fn settle(&mut self, month: Month, cost: Cost, seq: u64) {
        self.settle_calls(month, cost.key, Calls::one(cost.used), seq);
    }
}

impl Tally {
    /// Counts so many calls of this cost together, which happened and are in the log at this sequence.
    pub(super) fn report(&mut self, month: Month, cost: Cost, calls: u64, seq: u64) {
        let calls = Calls { number: calls, used: cost.used };
        self.month(month).outstanding(cost.key, |of| of.take(calls));
        self.settle_calls(month, cost.key, calls, seq);
    }

    /// Notes that a decision needs what an API key used. Without a reading of it nothing is decided.
    pub(super) fn want(&mut self, key: KeyId) {
        match self.wanted.iter_mut().find(|(known, _)| *known == key) {
            Some((_, is_asked)) => *is_asked = true,
            None => self.wanted.push((key, true)),
        }
    }

    /// API keys whose counts a reading is to hold.
    pub(super) fn wanted(&self) -> Vec<KeyId> {
        self.wanted.iter().map(|(key, _)| *key).collect()
    }

    fn settle_calls(&mut self, month: Month, key: Option<KeyId>, calls: Calls, seq: u64) {
        let covered = self.read.as_ref().is_some_and(|read| read.watermark >= seq);
        let settle =
            |of: &mut Outstanding| if covered { of.give_back(calls) } else { of.keep_until(seq, calls) };
        self.month(month).outstanding(key, settle);
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
            keys: snapshot.keys,
        };
        self.wanted.retain_mut(|(_, is_asked)| std::mem::take(is_asked));
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
        self.months.iter().map(|tally| tally.outstanding.sum().number).sum()
    }

    /// Tells whether a decision about the plan is kept that the last reading does not contain.
    pub(super) fn has_decisions(&self) -> bool {
        !self.decisions.is_empty()
    }

    /// The lowest position that the last reading does not contain yet.
    pub(super) fn next_position(&self) -> Option<u64> {
        let calls = self.months.iter().filter_map(|tally| tally.outstanding.first_position());
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
        Self { month, counted: Used::default(), outstanding: Outstanding::default(), keys: Vec::new() }
    }

    fn used(&self) -> Used {
        let mut used = self.counted;
        used.add(self.outstanding.sum().used);
        used
    }

    fn is_settled(&self) -> bool {
        self.outstanding.is_settled()
    }

    /// Units of ours of a key that the last reading does not contain.
    fn outstanding_of(&self, key: KeyId) -> u64 {
        let outstanding = self.keys.iter().find(|(known, _)| *known == key);
        outstanding.map_or(0, |(_, outstanding)| outstanding.sum().used.total)
    }

    /// Units of ours of the month, and of the key if there is one.
    fn outstanding(&mut self, key: Option<KeyId>, mut work: impl FnMut(&mut Outstanding)) {
        work(&mut self.outstanding);
        let Some(key) = key else { return };
        let at = self.keys.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            self.keys.push((key, Outstanding::default()));
            self.keys.len() - 1
        });
        work(&mut self.keys[at].1);
        if self.keys[at].1.is_settled() {
            self.keys.swap_remove(at);
        }
    }

    fn forget_until(&mut self, watermark: u64) {
        self.outstanding.forget_until(watermark);
        for (_, outstanding) in &mut self.keys {
            outstanding.forget_until(watermark);
        }
        self.keys.retain(|(_, outstanding)| !outstanding.is_settled());
    }
}

#[cfg(test)]
mod tests;
