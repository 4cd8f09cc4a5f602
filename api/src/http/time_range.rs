//! `?from=&to=`: which stretch of time a list or a series is about.

use std::fmt;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Utc};
use ledger::Month;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use store::read::filter::TimeRange;

use crate::http::problem::{FieldError, Problem};

/// One end of a range as clients write it: an RFC 3339 time, or a date, which is its 00:00 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RangeEnd(pub(crate) DateTime<Utc>);

impl<'de> Deserialize<'de> for RangeEnd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EndVisitor;
        impl Visitor<'_> for EndVisitor {
            type Value = RangeEnd;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an RFC 3339 time, or a date as YYYY-MM-DD")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RangeEnd, E> {
                parse(text)
                    .map(RangeEnd)
                    .ok_or_else(|| E::invalid_value(Unexpected::Other("other text"), &self))
            }
        }
        deserializer.deserialize_str(EndVisitor)
    }
}

fn parse(text: &str) -> Option<DateTime<Utc>> {
    let at = if text.len() == 10 {
        // chrono also reads signed years and other widths.
        let is_in_place = |(at, byte): (usize, u8)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        };
        if !text.bytes().enumerate().all(is_in_place) {
            return None;
        }
        NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_time(NaiveTime::MIN).and_utc()
    } else {
        ledger::time::parse(text)?
    };
    is_writable(at).then_some(at)
}

/// Tells whether RFC 3339 and PostgreSQL can both write the time: the years 0001 to 9999 in UTC.
pub(crate) fn is_writable(at: DateTime<Utc>) -> bool {
    (1..=9999).contains(&at.year())
}

/// The range from `from` to `to`; an end that is not given is that of the month of `now`.
pub(crate) fn time_range(
    from: Option<RangeEnd>,
    to: Option<RangeEnd>,
    now: DateTime<Utc>,
) -> Result<TimeRange, Problem> {
    let month = Month::of(now);
    let range =
        TimeRange { from: from.map_or(month.start(), |end| end.0), to: to.map_or(month.end(), |end| end.0) };
    if range.from < range.to {
        return Ok(range);
    }
    let name = if from.is_some() { "from" } else { "to" };
    let detail = format!(
        "the range must end after it begins: from {} to {}",
        ledger::time::to_text(range.from),
        ledger::time::to_text(range.to)
    );
    Err(Problem::validation(vec![FieldError::parameter(name, "empty_range", detail)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> Option<RangeEnd> {
        parse(text).map(RangeEnd)
    }

    #[test]
    fn a_date_is_its_midnight_in_utc() {
        assert_eq!(parse("2026-11-01"), parse("2026-11-01T00:00:00Z"));
        assert_eq!(parse("2026-11-01T01:00:00+01:00"), parse("2026-11-01"));
        for bad in ["", "2026", "2026-13-01", "2026-02-30", "01-11-2026", "2026-11-01T00:00:00", "yesterday!"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn years_have_four_digits() {
        for good in ["0001-01-01", "9999-12-31", "9999-12-31T23:59:59Z"] {
            assert!(parse(good).is_some(), "{good}");
        }
        for bad in [
            "-99999-1-1",
            "+99999-1-1",
            "99999-1-01",
            "0000-01-01",
            "2026- 1- 1",
            "0000-12-31T23:59:59Z",
            "9999-12-31T23:59:59-01:00",
            "0001-01-01T00:00:00+01:00",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_end_that_is_missing_is_this_months() {
        let now = parse("2026-11-24T03:00:00Z").unwrap();
        let range = time_range(None, None, now).unwrap();
        assert_eq!(Some(range.from), parse("2026-11-01"));
        assert_eq!(Some(range.to), parse("2026-12-01"));
        let range = time_range(end("2026-10-05"), None, now).unwrap();
        assert_eq!((Some(range.from), Some(range.to)), (parse("2026-10-05"), parse("2026-12-01")));
    }

    #[test]
    fn a_range_ends_after_it_begins() {
        let now = parse("2026-11-24T03:00:00Z").unwrap();
        let refused = |from, to| time_range(end(from), end(to), now).unwrap_err().errors()[0].clone();
        assert_eq!(refused("2026-11-02", "2026-11-02").code, "empty_range");
        assert_eq!(refused("2026-11-03", "2026-11-02").parameter.as_deref(), Some("from"));
        let only_to = time_range(None, end("2026-10-01"), now).unwrap_err();
        assert_eq!(only_to.errors()[0].parameter.as_deref(), Some("to"));
    }
}
