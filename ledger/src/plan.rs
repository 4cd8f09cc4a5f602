//! Plans and what they cost.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limit::Limits;
use crate::text::{self, Invalid};
use crate::usage::Meter;

/// A plan's name: 1..=255 bytes of text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PlanName(String);

impl PlanName {
    /// Accepts a plan's name; whether there is such a plan only the tables know.
    ///
    /// # Errors
    /// `empty`, `too_long` or `invalid_characters`.
    pub fn new(text: impl Into<String>) -> Result<Self, Invalid> {
        let text = text.into();
        text::check_name("a plan's name", &text)?;
        Ok(Self(text))
    }

    /// The plan of everyone without a subscription.
    pub fn free() -> Self {
        Self("free".to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PlanName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::new(text)
    }
}

impl fmt::Display for PlanName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PlanName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize_from_str(deserializer)
    }
}

/// A plan's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub name: PlanName,
    /// Units a month of all calls; `None` is unlimited.
    pub monthly_api_limit: Option<u64>,
    /// Units a month of analyze calls; `None` is unlimited.
    pub analyze_limit: Option<u64>,
    /// Price of a month.
    pub price_monthly: Money,
    /// Currency of the price.
    pub currency: Currency,
}

impl Plan {
    /// The limit of a meter in units a month; `None` is unlimited.
    pub fn limit(&self, meter: Meter) -> Option<u64> {
        self.limits().of(meter)
    }

    /// Both limits.
    pub fn limits(&self) -> Limits {
        Limits { total: self.monthly_api_limit, analyze: self.analyze_limit }
    }
}

/// An amount of money in hundredths of the currency's unit, written as a decimal string (`9.99`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

impl Money {
    /// The most that the tables hold: ten digits before the point.
    const MAX_CENTS: u64 = 999_999_999_999;

    /// An amount of so many hundredths.
    pub const fn from_cents(cents: i64) -> Self {
        Self(cents)
    }

    /// The hundredths.
    pub const fn cents(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let cents = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", cents / 100, cents % 100)
    }
}

impl FromStr for Money {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        parse_money(text).ok_or_else(|| {
            Invalid::new("invalid_amount", "an amount is a decimal with at most two places, like 9.99")
        })
    }
}

fn parse_money(text: &str) -> Option<Money> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, places) = text.split_once('.').unwrap_or((text, "00"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || whole.len() > 10 || !digits(places) || places.len() > 2 {
        return None;
    }
    let hundredths: u64 = places.parse().ok()?;
    let hundredths = if places.len() == 1 { hundredths * 10 } else { hundredths };
    let cents = whole.parse::<u64>().ok()? * 100 + hundredths;
    if cents > Money::MAX_CENTS {
        return None;
    }
    let cents = i64::try_from(cents).ok()?;
    Some(Money(if negative { -cents } else { cents }))
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize_from_str(deserializer)
    }
}

/// An ISO 4217 code: three capital letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// US dollars.
    pub const USD: Self = Self(*b"USD");

    /// The code.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Currency {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.as_bytes() {
            [a, b, c] if text.bytes().all(|byte| byte.is_ascii_uppercase()) => Ok(Self([*a, *b, *c])),
            _ => Err(Invalid::new(
                "invalid_currency",
                "a currency is an ISO 4217 code of three capital letters",
            )),
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize_from_str(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_exact() {
        for (text, cents) in [
            ("0", 0),
            ("0.00", 0),
            ("9.99", 999),
            ("9.9", 990),
            ("-0.05", -5),
            ("9999999999.99", 999_999_999_999),
        ] {
            let money: Money = text.parse().unwrap();
            assert_eq!(money.cents(), cents, "{text}");
            assert_eq!(money.to_string().parse(), Ok(money));
        }
        assert_eq!(Money::from_cents(-1_005).to_string(), "-10.05");
        for text in ["", ".5", "5.", "1.999", "1e3", "+1", "--1", "1,00", "10000000000", "NaN", "１"] {
            assert_eq!(text.parse::<Money>().unwrap_err().code, "invalid_amount", "{text}");
        }
    }

    #[test]
    fn currencies_are_three_capital_letters() {
        assert_eq!("EUR".parse::<Currency>().unwrap().as_str(), "EUR");
        for text in ["", "eur", "EURO", "E1R", "É"] {
            assert_eq!(text.parse::<Currency>().unwrap_err().code, "invalid_currency", "{text}");
        }
    }
}
