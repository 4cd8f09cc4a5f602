//! Time range and kind of calls that a figure is made of.

use chrono::{DateTime, Utc};

/// A half-open range of time: `from` belongs to it, `to` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    /// First instant inside the range.
    pub from: DateTime<Utc>,
    /// First instant after the range.
    pub to: DateTime<Utc>,
}

/// Kind of calls that a figure is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Counted {
    /// Those that count against a plan.
    #[default]
    Counted,
    /// Those that do not: answered 5xx, or made to our own routes.
    Uncounted,
    /// All of them.
    All,
}

impl Counted {
    /// The value that the column `counted` must have, or none when either will do.
    pub(super) fn column(self) -> Option<bool> {
        match self {
            Self::Counted => Some(true),
            Self::Uncounted => Some(false),
            Self::All => None,
        }
    }
}
