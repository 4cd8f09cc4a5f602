//! Tests of the tally: never over the limit, and in agreement with the facts in the end.

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use ledger::limit::{self, Decision, Limits, Used};
use ledger::{Category, KeyId, Month, PlanName, Units};
use proptest::prelude::*;
use store::read::limit_inputs::Terms;

use super::{PlanDecision, Snapshot, Sums, Tally};
use crate::limits::ask::{Ask, AskKey, Cost, Policy};
use crate::limits::counts::{Answer, Counts};

mod steps;

use steps::{Step, key, steps};

#[derive(Debug, Clone)]
enum Fact {
    Call {
        month: Month,
        cost: Cost,
        ours: bool,
    },
    /// Takes back the call at this index of the log.
    Uncount(usize),
    Reset(Month),
    Plan {
        terms: Arc<Terms>,
        effective_at: DateTime<Utc>,
    },
    Nothing,
}

#[derive(Debug, Clone)]
struct Admitted {
    month: Month,
    cost: Cost,
    seq: Option<u64>,
}

struct World {
    tally: Tally,
    now: DateTime<Utc>,
    /// Instants that were the present one before.
    earlier: Vec<DateTime<Utc>>,
    log: Vec<Fact>,
    watermark: usize,
    readings: Vec<Snapshot>,
    in_flight: Vec<Admitted>,
    lost: Vec<Admitted>,
}

const FREE: (u64, u64) = (20, 10);

fn terms(total: u64, analyze: u64) -> Arc<Terms> {
    Arc::new(Terms { plan: PlanName::free(), limits: Limits { total: Some(total), analyze: Some(analyze) } })
}

fn pick<T>(items: &[T], index: u8) -> Option<usize> {
    (!items.is_empty()).then(|| usize::from(index) % items.len())
}

fn category(analyze: bool) -> Category {
    if analyze { Category::Analyze } else { Category::Other }
}

impl World {
    fn new() -> Self {
        Self {
            tally: Tally::default(),
            now: "2026-11-15T00:00:00Z".parse().expect("a time"),
            earlier: Vec::new(),
            log: Vec::new(),
            watermark: 0,
            readings: Vec::new(),
            in_flight: Vec::new(),
            lost: Vec::new(),
        }
    }

    fn month(&self) -> Month {
        Month::of(self.now)
    }

    fn append(&mut self, fact: Fact) -> u64 {
        self.log.push(fact);
        self.log.len() as u64
    }

    /// Sum of the facts up to a position, since the month's last reset.
    fn used(&self, month: Month, until: usize, foreign: bool, key: Option<KeyId>) -> Used {
        let mut used = Used::default();
        let log = &self.log[..until];
        let start = log.iter().rposition(|fact| matches!(fact, Fact::Reset(of) if *of == month)).unwrap_or(0);
        let call = |at: usize| match &self.log[at] {
            Fact::Call { month: of, cost, ours }
                if *of == month && at >= start && (*ours || foreign) && is_of(cost, key) =>
            {
                cost.used
            }
            _ => Used::default(),
        };
        for (at, fact) in log.iter().enumerate().skip(start) {
            used.add(call(at));
            if let Fact::Uncount(of) = fact {
                used.subtract(call(*of));
            }
        }
        used
    }

    fn terms(&self, until: usize, at: DateTime<Utc>) -> Arc<Terms> {
        self.plan_at(until, at).map_or_else(|| terms(FREE.0, FREE.1), |(terms, _)| terms)
    }

    fn plan_at(&self, until: usize, at: DateTime<Utc>) -> Option<(Arc<Terms>, DateTime<Utc>)> {
        self.log[..until].iter().rev().find_map(|fact| match fact {
            Fact::Plan { terms, effective_at } if *effective_at <= at => {
                Some((Arc::clone(terms), *effective_at))
            }
            _ => None,
        })
    }

    fn read(&self) -> Snapshot {
        let first_month = self.month().prev();
        let mut month = first_month;
        let counted = std::array::from_fn(|_| {
            let used = self.used(month, self.watermark, true, None);
            month = month.next();
            used
        });
        let keys = self.tally.wanted().into_iter().map(|key| {
            let months = [first_month, first_month.next(), first_month.next().next()];
            (key, months.map(|month| self.used(month, self.watermark, true, Some(key)).total))
        });
        let latest = self.log[..self.watermark].iter().enumerate().rev().find_map(|(at, fact)| match fact {
            Fact::Plan { terms, effective_at } => Some(PlanDecision {
                seq: at as u64 + 1,
                effective_at: *effective_at,
                terms: Arc::clone(terms),
            }),
            _ => None,
        });
        Snapshot {
            watermark: self.watermark as u64,
            first_month,
            counted,
            current: self.terms(self.watermark, self.now),
            current_from: self.plan_at(self.watermark, self.now).map(|(_, from)| from),
            pending: latest.filter(|latest| latest.effective_at > self.now),
            keys: keys.collect(),
        }
    }

    fn admit(&mut self, at: DateTime<Utc>, analyze: bool, units: u8, key: Option<AskKey>) {
        let units = Units::new(u64::from(units)).expect("units");
        let ask = Ask { at, month: Month::of(at), category: category(analyze), units, key };
        if let Some((key, _)) = ask.budget() {
            self.tally.want(key);
        }
        if self.tally.lacks_terms(at) {
            assert!(matches!(self.tally.preview(&ask), Answer::Unread), "decided by a later plan");
            self.tally.set_earlier_terms(at, self.terms(self.watermark, at));
        }
        match self.tally.admit(&ask) {
            Answer::Admitted(standing) => {
                let admitted = Admitted { month: ask.month, cost: ask.cost(), seq: None };
                self.in_flight.push(admitted);
                let (terms, used) = (self.terms(self.log.len(), at), self.true_used(ask.month, None));
                assert!(used.total <= terms.limits.total.expect("a limit"), "{used:?} passes {terms:?}");
                if analyze {
                    assert!(
                        used.analyze <= terms.limits.analyze.expect("a limit"),
                        "{used:?} passes {terms:?}"
                    );
                }
                if let Some((key, budget)) = ask.budget() {
                    let used = self.true_used(ask.month, Some(key)).total;
                    assert!(used <= budget, "{used} passes the budget of {budget}");
                }
                assert_eq!(standing.terms, terms);
            }
            Answer::Refused(standing) => {
                let decision = limit::decide(standing.terms.limits, standing.used, ask.units, ask.category);
                let by_plan = matches!(decision, Decision::Refused { .. });
                assert!(by_plan || standing.violated(&ask).any(|policy| policy == Policy::Key));
            }
            Answer::Unread => {}
        }
    }

    /// Everything of a month that is in the log or may still come into it, but for what nobody told this instance.
    fn true_used(&self, month: Month, key: Option<KeyId>) -> Used {
        let mut used = self.used(month, self.log.len(), false, key);
        for call in self.in_flight.iter().chain(&self.lost) {
            if call.seq.is_none() && call.month == month && is_of(&call.cost, key) {
                used.add(call.cost.used);
            }
        }
        used
    }

    fn append_admitted(&mut self, list: fn(&mut Self) -> &mut Vec<Admitted>, at: usize) {
        let call = list(self)[at].clone();
        if call.seq.is_none() {
            let seq = self.append(Fact::Call { month: call.month, cost: call.cost, ours: true });
            list(self)[at].seq = Some(seq);
        }
    }

    fn resolve(&mut self) {
        let last_seq = self.log.len() as u64;
        for call in std::mem::take(&mut self.lost) {
            self.tally.settle(call.month, call.cost, last_seq);
        }
    }

    fn report(&mut self, analyze: bool, units: u8, twice: bool, key: Option<AskKey>) {
        let used = Used::default().plus(category(analyze), u64::from(units));
        let cost = Cost { used, key: key.map(|key| key.id) };
        let month = self.month();
        let seq = self.append(Fact::Call { month, cost, ours: true });
        self.tally.report(month, cost, 1, seq);
        if twice {
            let seq = self.append(Fact::Nothing);
            self.tally.report(month, cost, 1, seq);
        }
    }

    fn complete(&mut self, index: u8) {
        let taken: Vec<usize> = self
            .log
            .iter()
            .filter_map(|fact| if let Fact::Uncount(of) = fact { Some(*of) } else { None })
            .collect();
        let calls: Vec<usize> = (0..self.log.len())
            .filter(|at| matches!(self.log[*at], Fact::Call { .. }) && !taken.contains(at))
            .collect();
        if let Some(at) = pick(&calls, index) {
            self.append(Fact::Uncount(calls[at]));
        }
    }

    fn plan(&mut self, total: u8, analyze: u8, at_month_end: bool) {
        let terms = terms(u64::from(total), u64::from(analyze));
        let effective_at = if at_month_end { self.month().end() } else { self.now };
        let seq = self.append(Fact::Plan { terms: Arc::clone(&terms), effective_at });
        self.tally.decide_plan(PlanDecision { seq, effective_at, terms });
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Admit { analyze, units, key: kind } => self.admit(self.now, analyze, units, key(kind)),
            Step::AdmitLate { units, instant, key: kind } => {
                if let Some(at) = pick(&self.earlier, instant) {
                    self.admit(self.earlier[at], false, units, key(kind));
                }
            }
            Step::Append(index) => {
                if let Some(at) = pick(&self.in_flight, index) {
                    self.append_admitted(|world| &mut world.in_flight, at);
                } else if let Some(at) = pick(&self.lost, index) {
                    self.append_admitted(|world| &mut world.lost, at);
                }
            }
            Step::Acknowledge(index) => {
                let Some(at) = pick(&self.in_flight, index) else { return };
                if let Admitted { month, cost, seq: Some(seq) } = self.in_flight[at] {
                    self.tally.settle(month, cost, seq);
                    self.in_flight.swap_remove(at);
                }
            }
            Step::Fail(index) => {
                let Some(at) = pick(&self.in_flight, index) else { return };
                if let Admitted { month, cost, seq: None } = self.in_flight[at] {
                    self.tally.release(month, cost);
                    self.in_flight.swap_remove(at);
                }
            }
            Step::Lose(index) => {
                if let Some(at) = pick(&self.in_flight, index) {
                    let call = self.in_flight.swap_remove(at);
                    self.lost.push(call);
                }
            }
            Step::Resolve => self.resolve(),
            Step::Report { analyze, units, twice, key: kind } => {
                self.report(analyze, units, twice, key(kind));
            }
            Step::Foreign { units } => {
                let cost = Used::default().plus(Category::Other, u64::from(units)).into();
                self.append(Fact::Call { month: self.month(), cost, ours: false });
            }
            Step::Complete5xx(index) => self.complete(index),
            Step::Reset => drop(self.append(Fact::Reset(self.month()))),
            Step::Plan { total, analyze, at_month_end } => self.plan(total, analyze, at_month_end),
            Step::Project(facts) => {
                self.watermark = (self.watermark + usize::from(facts)).min(self.log.len());
            }
            Step::Read => self.readings.push(self.read()),
            Step::Refresh(index) => {
                if let Some(at) = pick(&self.readings, index) {
                    self.tally.refresh(self.readings[at].clone());
                }
            }
            Step::NextMonth => {
                if self.month().number() < 12 {
                    self.earlier.push(self.now);
                    self.now = self.month().end() + Duration::hours(1);
                }
            }
        }
    }

    /// A call that only asks, with the key that has a budget.
    fn look(&mut self) -> Ask {
        let key = key(1);
        self.tally.want(key.expect("a key").id);
        Ask { at: self.now, month: self.month(), category: Category::Other, units: Units::ONE, key }
    }

    /// Everything arrives everywhere.
    fn settle(&mut self) {
        for at in 0..self.in_flight.len() {
            self.append_admitted(|world| &mut world.in_flight, at);
        }
        for call in std::mem::take(&mut self.in_flight) {
            self.tally.settle(call.month, call.cost, call.seq.expect("appended"));
        }
        self.resolve();
        self.watermark = self.log.len();
        self.tally.refresh(self.read());
    }
}

fn plain(world: &World) -> Ask {
    Ask { at: world.now, month: world.month(), category: Category::Other, units: Units::ONE, key: None }
}

/// Whether the calls count where those of this key are counted, or those of all.
fn is_of(cost: &Cost, key: Option<KeyId>) -> bool {
    key.is_none() || cost.key == key
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn admits_never_over_the_limit_and_agrees_with_the_facts_in_the_end(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(&step);
        }
        let look = world.look();
        world.settle();
        let standing = world.tally.standing(&look).expect("it was read");
        prop_assert_eq!(standing.used, world.used(world.month(), world.log.len(), true, None));
        let key = standing.key.expect("it has a budget");
        prop_assert_eq!(key.used, world.used(world.month(), world.log.len(), true, Some(key.id)).total);
        prop_assert_eq!(standing.terms, world.terms(world.log.len(), world.now));
        prop_assert!(world.tally.is_settled());
        prop_assert_eq!(world.tally.outstanding_calls(), 0);
    }
}

#[test]
fn nothing_is_admitted_before_a_reading() {
    let mut world = World::new();
    world.admit(world.now, true, 1, None);
    assert!(world.in_flight.is_empty());
    world.tally.refresh(world.read());
    world.admit(world.now, true, 1, None);
    assert_eq!(world.in_flight.len(), 1);
}

#[test]
fn exactly_the_limit_is_admitted_without_any_projection() {
    let mut world = World::new();
    world.tally.refresh(world.read());
    for _ in 0..50 {
        world.admit(world.now, true, 1, None);
    }
    assert_eq!(world.in_flight.len() as u64, FREE.1);
    for _ in 0..50 {
        world.admit(world.now, false, 1, None);
    }
    assert_eq!(world.in_flight.len() as u64, FREE.0);
}

#[test]
fn many_positions_are_joined_and_none_is_lost() {
    let mut tally = Tally::default();
    let month = Month::of("2026-11-15T00:00:00Z".parse().expect("a time"));
    let cost = Cost { used: Used { total: 1, analyze: 0 }, key: key(1).map(|key| key.id) };
    for seq in 1..=10_000 {
        tally.report(month, cost, 2, seq);
    }
    assert_eq!(tally.outstanding_calls(), 20_000);
    assert!(tally.months[0].outstanding.positions() <= super::outstanding::MAX_POSITIONS);
    assert!(tally.months[0].keys[0].1.positions() <= super::outstanding::MAX_POSITIONS);
    let mut world = World::new();
    world.watermark = 0;
    let reading = Snapshot { watermark: 10_000, ..world.read() };
    tally.refresh(reading);
    assert!(tally.is_settled());
}

#[test]
fn an_older_reading_never_replaces_a_newer_one() {
    let mut world = World::new();
    let old = world.read();
    for _ in 0..10 {
        world.report(true, 1, false, None);
    }
    world.watermark = world.log.len();
    world.tally.refresh(world.read());
    world.tally.refresh(old);
    let look = plain(&world);
    let standing = world.tally.standing(&look).expect("it was read");
    assert_eq!(standing.used, Used { total: 10, analyze: 10 });
}

#[test]
fn after_a_rewind_the_positions_used_anew_count() {
    let mut world = World::new();
    for _ in 0..10 {
        world.report(true, 1, false, None);
    }
    world.watermark = world.log.len();
    world.tally.refresh(world.read());
    // The log lost its last eight calls, and the next one is at a position that was read once.
    world.tally.forget_reading();
    world.log.truncate(2);
    world.watermark = 2;
    assert!(world.tally.standing(&plain(&world)).is_none(), "nothing is known any more");
    world.report(true, 1, false, None);
    assert_eq!(world.tally.outstanding_calls(), 1);
    world.tally.refresh(world.read());
    let look = plain(&world);
    let standing = world.tally.standing(&look).expect("it was read");
    assert_eq!(standing.used, Used { total: 3, analyze: 3 });
}

#[test]
fn a_key_s_budget_counts_what_it_used_before_it_had_one() {
    let mut world = World::new();
    world.tally.refresh(world.read());
    for _ in 0..6 {
        world.admit(world.now, false, 1, key(2));
    }
    world.admit(world.now, false, 1, key(1));
    assert_eq!(world.in_flight.len(), 6, "what the key used is not read yet");
    world.tally.refresh(world.read());
    for _ in 0..6 {
        world.admit(world.now, false, 1, key(1));
    }
    assert_eq!(world.in_flight.len(), 8, "of 8 six were used");
    world.admit(world.now, false, 1, None);
    assert_eq!(world.in_flight.len(), 9, "the plan has more");
}
