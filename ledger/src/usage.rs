//! Counting of a call: its category, the meters it uses, its units.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::number::WholeNumber;
use crate::text::Invalid;

/// Kind of a call; decided once, by the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// An analysis: uses both meters.
    Analyze,
    /// Signing in and the like.
    Auth,
    /// Everything else.
    Other,
}

impl Category {
    /// All categories, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Analyze, Self::Auth, Self::Other];

    /// The name in JSON and in the tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Analyze => "analyze",
            Self::Auth => "auth",
            Self::Other => "other",
        }
    }

    /// The meters that a call of this category uses.
    pub const fn meters(self) -> &'static [Meter] {
        match self {
            Self::Analyze => &[Meter::Total, Meter::Analyze],
            Self::Auth | Self::Other => &[Meter::Total],
        }
    }
}

impl FromStr for Category {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|category| category.as_str() == text)
            .ok_or_else(|| Invalid::new("invalid_category", "a category is one of analyze, auth, other"))
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Sum of units that a plan limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// Units of all counted calls.
    Total,
    /// Units of counted calls of category analyze.
    Analyze,
}

impl Meter {
    /// All meters, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::Total, Self::Analyze];

    /// The name in JSON, headers and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Analyze => "analyze",
        }
    }
}

impl FromStr for Meter {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|meter| meter.as_str() == text)
            .ok_or_else(|| Invalid::new("invalid_meter", "a meter is one of total, analyze"))
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Cost of a call in units: 1 to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Units(u32);

impl Units {
    /// One unit, what a call costs unless something says otherwise.
    pub const ONE: Self = Self(1);
    /// The most that one call may cost.
    pub const MAX: Self = Self(1_000_000);

    /// Accepts 1 to 1,000,000.
    ///
    /// # Errors
    /// `invalid_units`.
    pub fn new(units: u64) -> Result<Self, Invalid> {
        match u32::try_from(units) {
            Ok(units @ 1..=1_000_000) => Ok(Self(units)),
            _ => Err(Invalid::new("invalid_units", "units must be from 1 to 1000000")),
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for Units {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Units {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(WholeNumber::<1>::deserialize(deserializer)?.get()).map_err(serde::de::Error::custom)
    }
}

/// An HTTP status code: 100 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct StatusCode(u16);

impl StatusCode {
    /// Accepts 100 to 599.
    ///
    /// # Errors
    /// `invalid_status_code`.
    pub fn new(status: u64) -> Result<Self, Invalid> {
        match u16::try_from(status) {
            Ok(status @ 100..=599) => Ok(Self(status)),
            _ => Err(Invalid::new("invalid_status_code", "a status code must be from 100 to 599")),
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Whether the call failed on the server's side; such calls do not count.
    pub const fn is_server_error(self) -> bool {
        self.0 >= 500
    }
}

impl<'de> Deserialize<'de> for StatusCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(WholeNumber::<100>::deserialize(deserializer)?.get()).map_err(serde::de::Error::custom)
    }
}
