//! A call that asks to be admitted, and how its user stands.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use ledger::limit::{self, Used};
use ledger::{Category, KeyId, Meter, Month, Units};
use store::read::limit_inputs::Terms;

/// A call that asks to be admitted.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The admission instant; it decides month and plan.
    pub at: DateTime<Utc>,
    /// The month of `at`.
    pub month: Month,
    /// Kind of call.
    pub category: Category,
    /// Its cost.
    pub units: Units,
    /// The API key that it comes with, if it does.
    pub key: Option<AskKey>,
}

/// An API key of a call that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskKey {
    /// Its id.
    pub id: KeyId,
    /// Units a month that it may use; none is as many as the plan has.
    pub budget: Option<u64>,
}

/// Units of calls: of their user, and of the API key that all of them came with, if they did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Units by meter.
    pub used: Used,
    /// The key.
    pub key: Option<KeyId>,
}

impl From<Used> for Cost {
    fn from(used: Used) -> Self {
        Self { used, key: None }
    }
}

impl Ask {
    /// Units that its admission adds.
    pub fn cost(&self) -> Cost {
        let used = Used::default().plus(self.category, u64::from(self.units.get()));
        Cost { used, key: self.key.map(|key| key.id) }
    }

    /// The API key, if it has a budget, and that.
    pub(super) fn budget(&self) -> Option<(KeyId, u64)> {
        self.key.and_then(|key| Some((key.id, key.budget?)))
    }
}

/// Standing of a user in a month.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The plan in force.
    pub terms: Arc<Terms>,
    /// The month.
    pub month: Month,
    /// Units used; of an admitted call its own included.
    pub used: Used,
    /// Standing of the call's API key, if it has a budget.
    pub key: Option<KeyStanding>,
}

/// Standing of an API key in a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyStanding {
    /// The key.
    pub id: KeyId,
    /// Units a month that it may use.
    pub budget: u64,
    /// Units used; of an admitted call its own included.
    pub used: u64,
}

/// What bounds a call: a meter of its user's plan, or the budget of its API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// A meter.
    Meter(Meter),
    /// The budget.
    Key,
}

impl Policy {
    /// The name in headers and problems.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Meter(meter) => meter.as_str(),
            Self::Key => "key",
        }
    }
}

impl Standing {
    /// What the call would pass, the plan's meters first.
    pub fn violated(&self, ask: &Ask) -> impl Iterator<Item = Policy> {
        let units = u64::from(ask.units.get());
        let key = self.key.filter(|key| key.used.checked_add(units).is_none_or(|after| after > key.budget));
        let meters = limit::violated(self.terms.limits, self.used, ask.units, ask.category);
        meters.map(Policy::Meter).chain(key.map(|_| Policy::Key))
    }

    /// Limit of the policy, and units used of it. A plan's limit of none is unlimited.
    pub fn of(&self, policy: Policy) -> (Option<u64>, u64) {
        match policy {
            Policy::Meter(meter) => (self.terms.limits.of(meter), self.used.of(meter)),
            Policy::Key => self.key.map_or((None, 0), |key| (Some(key.budget), key.used)),
        }
    }

    /// The policy with the fewest units left among those that a call of this category uses; the plan's if both have the
    /// same left.
    pub fn tightest(&self, category: Category) -> Policy {
        let meter = Policy::Meter(limit::tightest(self.terms.limits, self.used, category));
        let left = |policy: Policy| {
            let (limit, used) = self.of(policy);
            limit::remaining(used, limit).unwrap_or(u64::MAX)
        };
        if self.key.is_some() && left(Policy::Key) < left(meter) { Policy::Key } else { meter }
    }

    /// The standing once the call is admitted.
    pub(super) fn with(self, ask: &Ask) -> Self {
        let units = u64::from(ask.units.get());
        let key = self.key.map(|key| KeyStanding { used: key.used.saturating_add(units), ..key });
        Self { used: self.used.plus(ask.category, units), key, ..self }
    }

    /// The standing before the call was admitted.
    pub(super) fn without(&self, ask: &Ask) -> Self {
        let cost = ask.cost().used;
        let used = Used {
            total: self.used.total.saturating_sub(cost.total),
            analyze: self.used.analyze.saturating_sub(cost.analyze),
        };
        let key = self.key.map(|key| KeyStanding { used: key.used.saturating_sub(cost.total), ..key });
        Self { used, key, ..self.clone() }
    }
}
