//! The limit decision: pure, apart from where its counts come from.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::usage::{Category, Meter, Units};

/// Limits of the two meters in units a month; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// All calls.
    pub total: Option<u64>,
    /// Calls of category analyze.
    pub analyze: Option<u64>,
}

impl Limits {
    /// No limits at all.
    pub const UNLIMITED: Self = Self { total: None, analyze: None };

    /// The limit of a meter.
    pub const fn of(self, meter: Meter) -> Option<u64> {
        match meter {
            Meter::Total => self.total,
            Meter::Analyze => self.analyze,
        }
    }
}

/// Units used of the two meters in a month.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// All calls.
    pub total: u64,
    /// Calls of category analyze.
    pub analyze: u64,
}

impl Used {
    /// The units of a meter.
    pub const fn of(self, meter: Meter) -> u64 {
        match meter {
            Meter::Total => self.total,
            Meter::Analyze => self.analyze,
        }
    }

    /// With a call of this category and so many units more.
    #[must_use]
    pub fn plus(self, category: Category, units: u64) -> Self {
        let analyze = if category == Category::Analyze { units } else { 0 };
        Self { total: self.total.saturating_add(units), analyze: self.analyze.saturating_add(analyze) }
    }
}

/// Whether a call may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// All its units are granted.
    Allowed {
        /// Units used then, this call included.
        used_after: Used,
    },
    /// None of its units is granted.
    Refused {
        /// The meter whose limit it would pass; `total` when it is both.
        meter: Meter,
    },
}

/// Grants a call all its units, or none when they would pass a limit of one of the meters that it uses. While
/// a meter stands at or above its limit it grants nothing.
pub fn decide(limits: Limits, used: Used, units: Units, category: Category) -> Decision {
    match violated(limits, used, units, category).next() {
        Some(meter) => Decision::Refused { meter },
        None => Decision::Allowed { used_after: used.plus(category, u64::from(units.get())) },
    }
}

/// The meters whose limit the call would pass, `total` first.
pub fn violated(limits: Limits, used: Used, units: Units, category: Category) -> impl Iterator<Item = Meter> {
    category.meters().iter().copied().filter(move |&meter| {
        let Some(limit) = limits.of(meter) else { return false };
        used.of(meter).checked_add(u64::from(units.get())).is_none_or(|after| after > limit)
    })
}

/// Status of a meter, by its units used and its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Below 80 %.
    Ok,
    /// From 80 % of the limit.
    Warning,
    /// At the limit or above it.
    Blocked,
}

impl Status {
    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Blocked => "blocked",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The threshold, in percent of a limit, from which a meter warns. Crossing it is an event, as is reaching the limit.
pub const WARNING_PERCENT: u8 = 80;
/// The threshold, in percent of a limit, from which a meter blocks.
pub const BLOCKED_PERCENT: u8 = 100;

/// Status of a meter with so many units used and this limit; unlimited is always ok.
pub fn status(used: u64, limit: Option<u64>) -> Status {
    match limit {
        Some(limit) if used >= limit => Status::Blocked,
        Some(limit) if reached(used, limit, WARNING_PERCENT) => Status::Warning,
        _ => Status::Ok,
    }
}

/// The worst status of the meters.
pub fn worst_status(limits: Limits, used: Used) -> Status {
    Meter::ALL.into_iter().map(|meter| status(used.of(meter), limits.of(meter))).max().unwrap_or(Status::Ok)
}

/// Whether so many units reach so many percent of the limit, by integers.
pub fn reached(used: u64, limit: u64, threshold_percent: u8) -> bool {
    100 * u128::from(used) >= u128::from(threshold_percent) * u128::from(limit)
}

/// A share of a limit in tenths of a percent, rounded down, not capped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percentage(u64);

impl Percentage {
    /// The tenths of a percent.
    pub const fn tenths(self) -> u64 {
        self.0
    }

    /// So many tenths of a percent.
    pub const fn from_tenths(tenths: u64) -> Self {
        Self(tenths)
    }
}

impl fmt::Display for Percentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}

impl Serialize for Percentage {
    /// A JSON number with one decimal place.
    #[expect(clippy::cast_precision_loss, reason = "a percentage past 2^53 tenths may lose its last digits")]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0 as f64 / 10.0)
    }
}

/// The share of the limit that is used; `None` when there is no limit or it is 0.
pub fn percentage(used: u64, limit: Option<u64>) -> Option<Percentage> {
    let limit = limit.filter(|&limit| limit > 0)?;
    let tenths = 1_000 * u128::from(used) / u128::from(limit);
    Some(Percentage(u64::try_from(tenths).unwrap_or(u64::MAX)))
}

/// Units left, at least 0; `None` is unlimited.
pub fn remaining(used: u64, limit: Option<u64>) -> Option<u64> {
    limit.map(|limit| limit.saturating_sub(used))
}

/// The meter with the fewest units left among those that a call of this category uses; `total` when none of
/// them is limited or both have the same left.
pub fn tightest(limits: Limits, used: Used, category: Category) -> Meter {
    let left = |meter: Meter| remaining(used.of(meter), limits.of(meter)).unwrap_or(u64::MAX);
    category.meters().iter().copied().min_by_key(|&meter| left(meter)).unwrap_or(Meter::Total)
}

#[cfg(test)]
mod tests;
