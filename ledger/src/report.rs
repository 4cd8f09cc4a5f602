//! Bounds on what a reported call may say about itself.

use std::net::IpAddr;

use chrono::{DateTime, Duration, Utc};

use crate::month::Month;
use crate::text::Invalid;

/// Furthest that a reported time may be ahead of our clock.
pub const MAX_AHEAD: Duration = Duration::minutes(5);
/// Furthest that a reported time may be back, unless the report is a backfill.
pub const MAX_AGE: Duration = Duration::days(35);

/// Whether calls may be reported from any time since 2000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backfill {
    /// Only from the last 35 days.
    No,
    /// From 2000-01-01 on (`X-Backfill: true`, `import`).
    Yes,
}

/// Accepts the time of a reported call: at most [`MAX_AHEAD`] of `now`, and not older than [`MAX_AGE`], or with
/// backfill than 2000-01-01.
///
/// # Errors
/// `time_out_of_range`.
pub fn check_time(time: DateTime<Utc>, now: DateTime<Utc>, backfill: Backfill) -> Result<(), Invalid> {
    let refuse = |detail: &str| Err(Invalid::new("time_out_of_range", detail));
    if time > now + MAX_AHEAD {
        return refuse("the time is more than 5 minutes ahead");
    }
    match backfill {
        Backfill::No if time < now - MAX_AGE => refuse("the time is more than 35 days back; see X-Backfill"),
        Backfill::Yes if time < Month::FIRST.start() => refuse("the time is before 2000-01-01"),
        _ => Ok(()),
    }
}

/// Accepts how long a call took: 0 to 2^31 − 1 ms.
///
/// # Errors
/// `invalid_response_time`.
pub fn response_time_ms(millis: u64) -> Result<u32, Invalid> {
    match u32::try_from(millis) {
        Ok(millis) if i32::try_from(millis).is_ok() => Ok(millis),
        _ => Err(Invalid::new("invalid_response_time", "a response time must be from 0 to 2147483647 ms")),
    }
}

/// Accepts a size in bytes: 0 to 2^63 − 1.
///
/// # Errors
/// `invalid_size`.
pub fn size_bytes(bytes: u64) -> Result<u64, Invalid> {
    if i64::try_from(bytes).is_ok() {
        return Ok(bytes);
    }
    Err(Invalid::new("invalid_size", "a size must be from 0 to 9223372036854775807 bytes"))
}

/// Accepts an IPv4 or IPv6 address, without port or zone.
///
/// # Errors
/// `invalid_ip_address`.
pub fn ip_address(text: &str) -> Result<IpAddr, Invalid> {
    text.parse().map_err(|_| Invalid::new("invalid_ip_address", "an address must be an IPv4 or IPv6 address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reported_time_lies_in_its_window() {
        let now = Month::new(2026, 11).unwrap().start();
        let micro = Duration::microseconds(1);
        let code = |time, backfill| check_time(time, now, backfill).err().map(|error| error.code);
        for backfill in [Backfill::No, Backfill::Yes] {
            assert_eq!(code(now, backfill), None);
            assert_eq!(code(now + MAX_AHEAD, backfill), None);
            assert_eq!(code(now + MAX_AHEAD + micro, backfill), Some("time_out_of_range"));
            assert_eq!(code(now - MAX_AGE, backfill), None);
        }
        assert_eq!(code(now - MAX_AGE - micro, Backfill::No), Some("time_out_of_range"));
        assert_eq!(code(now - MAX_AGE - micro, Backfill::Yes), None);
        assert_eq!(code(Month::FIRST.start(), Backfill::Yes), None);
        assert_eq!(code(Month::FIRST.start() - micro, Backfill::Yes), Some("time_out_of_range"));
    }

    #[test]
    fn numbers_fit_their_columns() {
        assert_eq!(response_time_ms(2_147_483_647), Ok(2_147_483_647));
        assert_eq!(response_time_ms(2_147_483_648).unwrap_err().code, "invalid_response_time");
        assert_eq!(size_bytes(u64::MAX / 2), Ok(9_223_372_036_854_775_807));
        assert_eq!(size_bytes(u64::MAX / 2 + 1).unwrap_err().code, "invalid_size");
    }

    #[test]
    fn addresses_are_addresses() {
        assert_eq!(ip_address("::FFFF").unwrap().to_string(), "::ffff");
        for text in ["", "1.2.3", "1.2.3.4:80", "fe80::1%eth0", "localhost", "01.2.3.4"] {
            assert_eq!(ip_address(text).unwrap_err().code, "invalid_ip_address", "{text}");
        }
    }
}
