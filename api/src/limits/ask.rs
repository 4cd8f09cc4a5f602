//! A call that asks to be admitted, and how its user stands.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use ledger::limit::Used;
use ledger::{Category, Month, Units};
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
}

impl Ask {
    /// Units that its admission adds.
    pub fn cost(&self) -> Used {
        Used::default().plus(self.category, u64::from(self.units.get()))
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
}
