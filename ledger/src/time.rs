//! RFC 3339 as the ledger writes it: UTC, microseconds, `Z`.
//!
//! Millions of events a second are read back with their times, so the one canonical form is parsed and written by
//! hand; any other form goes through chrono.

use chrono::{DateTime, SubsecRound, Utc};

/// Length of the canonical form, `2026-11-24T03:50:37.123456Z`.
pub const CANONICAL_BYTES: usize = 27;

/// Parses any RFC 3339 time, truncated to microseconds; `None` when it is none.
pub fn parse(text: &str) -> Option<DateTime<Utc>> {
    parse_canonical(text.as_bytes()).or_else(|| {
        let parsed = DateTime::parse_from_rfc3339(text).ok()?;
        Some(parsed.with_timezone(&Utc).trunc_subsecs(6))
    })
}

/// Parses exactly the canonical form.
pub fn parse_canonical(text: &[u8]) -> Option<DateTime<Utc>> {
    let text: &[u8; CANONICAL_BYTES] = text.try_into().ok()?;
    let punctuation = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (26, b'Z')];
    if punctuation.iter().any(|&(at, expected)| text[at] != expected) {
        return None;
    }
    let year = digits(&text[..4])?;
    let (month, day) = (digits(&text[5..7])?, digits(&text[8..10])?);
    let (hour, minute, second) = (digits(&text[11..13])?, digits(&text[14..16])?, digits(&text[17..19])?);
    let micros = digits(&text[20..26])?;
    if hour > 23 || minute > 59 || second > 59 || day == 0 || day > days_in(year, month)? {
        return None;
    }
    let of_day = i64::from(hour * 3_600 + minute * 60 + second);
    DateTime::from_timestamp(days_from_civil(year, month, day) * 86_400 + of_day, micros * 1_000)
}

fn digits(text: &[u8]) -> Option<u32> {
    let mut number = 0;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number * 10 + u32::from(digit);
    }
    Some(number)
}

fn days_in(year: u32, month: u32) -> Option<u32> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => Some(28 + u32::from(leap)),
        4 | 6 | 9 | 11 => Some(30),
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Some(31),
        _ => None,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `days_from_civil`), for years from 0.
fn days_from_civil(year: u32, month: u32, day: u32) -> i64 {
    let year = i64::from(year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = (i64::from(month) + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of so many days since 1970-01-01: the inverse (`civil_from_days`).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The canonical form; instants outside the years 0 to 9999 are written as the nearest that has one.
pub fn format(instant: DateTime<Utc>) -> [u8; CANONICAL_BYTES] {
    const FIRST_MICROS: i64 = -62_167_219_200_000_000;
    const LAST_MICROS: i64 = 253_402_300_799_999_999;
    let micros = instant.timestamp_micros().clamp(FIRST_MICROS, LAST_MICROS);
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);

    let mut text = *b"0000-00-00T00:00:00.000000Z";
    put(&mut text[..4], year);
    put(&mut text[5..7], month);
    put(&mut text[8..10], day);
    put(&mut text[11..13], of_day / 3_600);
    put(&mut text[14..16], of_day / 60 % 60);
    put(&mut text[17..19], of_day % 60);
    put(&mut text[20..26], fraction);
    text
}

fn put(text: &mut [u8], mut number: i64) {
    for byte in text.iter_mut().rev() {
        *byte = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

/// The canonical form as text.
pub fn to_text(instant: DateTime<Utc>) -> String {
    format(instant).iter().copied().map(char::from).collect()
}

/// `#[serde(with = "ledger::time::rfc3339")]`: reads any RFC 3339 time, writes the canonical form.
pub mod rfc3339 {
    use std::borrow::Cow;

    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the canonical form.
    pub fn serialize<S: Serializer>(instant: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        let text = super::format(*instant);
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }

    /// Reads any RFC 3339 time, truncated to microseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        super::parse(&text).ok_or_else(|| D::Error::custom("not an RFC 3339 time"))
    }
}

#[cfg(test)]
mod tests;
