//! Calendar months in UTC, the only period there is.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::Invalid;

/// A calendar month in UTC of the years 2000 to 9999, written `YYYY-MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    // Months since year 0, so that order and succession are those of integers.
    index: u32,
}

impl Month {
    /// January 2000, the first month that the ledger keeps.
    pub const FIRST: Self = Self { index: 2_000 * 12 };
    /// December 9999, the last month that it keeps.
    pub const LAST: Self = Self { index: 9_999 * 12 + 11 };

    /// The month of this year and number (1 to 12), if it is one that the ledger keeps.
    pub fn new(year: u32, month: u32) -> Option<Self> {
        if !(2_000..=9_999).contains(&year) || !(1..=12).contains(&month) {
            return None;
        }
        Some(Self { index: year * 12 + month - 1 })
    }

    /// The month that holds this instant; instants outside the kept years fall into the nearest kept month.
    pub fn of(instant: DateTime<Utc>) -> Self {
        let Ok(year) = u32::try_from(instant.year()) else { return Self::FIRST };
        let index = year.saturating_mul(12).saturating_add(instant.month0());
        Self { index: index.clamp(Self::FIRST.index, Self::LAST.index) }
    }

    /// The year, 2000 to 9999.
    pub fn year(self) -> u32 {
        self.index / 12
    }

    /// The month's number, 1 to 12.
    pub fn number(self) -> u32 {
        self.index % 12 + 1
    }

    /// The first instant of the month.
    pub fn start(self) -> DateTime<Utc> {
        start_of(self.index)
    }

    /// The first instant after the month.
    pub fn end(self) -> DateTime<Utc> {
        start_of(self.index + 1)
    }

    /// Seconds from start to end.
    pub fn seconds(self) -> u64 {
        (self.end() - self.start()).num_seconds().unsigned_abs()
    }

    /// Whether the instant lies in this month.
    pub fn contains(self, instant: DateTime<Utc>) -> bool {
        self.start() <= instant && instant < self.end()
    }

    /// The month after this one; the last month is its own successor.
    #[must_use]
    pub fn next(self) -> Self {
        Self { index: (self.index + 1).min(Self::LAST.index) }
    }

    /// The month before this one; the first month is its own predecessor.
    #[must_use]
    pub fn prev(self) -> Self {
        Self { index: (self.index - 1).max(Self::FIRST.index) }
    }
}

fn start_of(index: u32) -> DateTime<Utc> {
    i32::try_from(index / 12)
        .ok()
        .and_then(|year| NaiveDate::from_ymd_opt(year, index % 12 + 1, 1))
        .map_or(DateTime::<Utc>::MAX_UTC, |date| date.and_time(NaiveTime::MIN).and_utc())
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year(), self.number())
    }
}

impl FromStr for Month {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        parse(text.as_bytes()).ok_or_else(|| {
            Invalid::new("invalid_month", "a month is written YYYY-MM, from 2000-01 to 9999-12")
        })
    }
}

fn parse(text: &[u8]) -> Option<Month> {
    let [y1, y2, y3, y4, b'-', m1, m2] = text else { return None };
    let number = |digits: &[u8]| {
        digits
            .iter()
            .try_fold(0_u32, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
    };
    Month::new(number(&[*y1, *y2, *y3, *y4])?, number(&[*m1, *m2])?)
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::deserialize_from_str(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;

    #[test]
    fn every_month_from_2000_to_9999_follows_its_predecessor() {
        let mut month = Month::FIRST;
        let mut months = 1;
        let mut seconds = 0;
        loop {
            assert_eq!(Month::of(month.start()), month);
            assert_eq!(Month::of(month.end() - Duration::microseconds(1)), month);
            assert_eq!(month.to_string().parse(), Ok(month));
            assert!(month.contains(month.start()) && !month.contains(month.end()));
            seconds += month.seconds();
            let next = month.next();
            if next == month {
                break;
            }
            assert!(month < next && next.prev() == month);
            assert_eq!(next.start(), month.end());
            month = next;
            months += 1;
        }
        assert_eq!((months, month), (8_000 * 12, Month::LAST));
        // 8,000 years are 20 cycles of 400 years, each of 146,097 days.
        assert_eq!(seconds, 20 * 146_097 * 86_400);
    }

    #[test]
    fn the_ends_of_time_are_kept_months() {
        assert_eq!(Month::FIRST.prev(), Month::FIRST);
        assert_eq!(Month::of(DateTime::<Utc>::MIN_UTC), Month::FIRST);
        assert_eq!(Month::of(Month::FIRST.start() - Duration::microseconds(1)), Month::FIRST);
        assert_eq!(Month::of(DateTime::<Utc>::MAX_UTC), Month::LAST);
        assert_eq!(Month::LAST.end().to_string(), "+10000-01-01 00:00:00 UTC");
    }

    #[test]
    fn a_month_is_written_one_way_only() {
        assert_eq!("2026-11".parse(), Ok(Month::new(2026, 11).unwrap()));
        let wrong = [
            "",
            "2026",
            "2026-1",
            "2026-13",
            "2026-00",
            "1999-12",
            "10000-01",
            "2026-011",
            "2026/11",
            "+026-11",
            "2026-+1",
            " 2026-11",
            "2026-11 ",
            "２０２６-11",
        ];
        for text in wrong {
            assert_eq!(text.parse::<Month>().unwrap_err().code, "invalid_month", "{text}");
        }
    }
}
