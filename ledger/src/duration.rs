//! Durations as settings and arguments write them.

use std::time::Duration;

/// Text that is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a duration is a number with s, m, h or d, such as 90s or 1h")]
pub struct DurationError;

/// Reads `90s`, `15m`, `1h`, `7d`.
///
/// # Errors
/// The text has another form, or names more seconds than 64 bits hold.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    let unit = text.chars().next_back().ok_or(DurationError)?;
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| DurationError)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(DurationError),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or(DurationError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration(" 7d ").unwrap(), Duration::from_hours(168));
        for bad in ["", "1", "h", "-1h", "1.5h", "1é", "99999999999999999999d", "18446744073709551615d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
