//! Forecast of a meter at the month's end, if it goes on like this.

use chrono::{DateTime, Duration, Utc};

use crate::month::Month;

/// A linear forecast of one meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// Units at the month's end, rounded up.
    pub at_month_end: u64,
    /// Instant at which the limit will be reached; `None` when not within the month, when it is reached already, or
    /// without limit.
    pub limit_reached_at: Option<DateTime<Utc>>,
}

/// Extends the units used since `since` (the month's start, a later first call or a reset) on a straight line to the
/// month's end. `None` before a day of data. A month that is over is its own forecast.
pub fn forecast(
    month: Month,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
    used: u64,
    limit: Option<u64>,
) -> Option<Forecast> {
    let since = since.max(month.start());
    let now = now.min(month.end());
    if now - since < Duration::days(1) {
        return None;
    }
    let elapsed = micros(now - since)?;
    let whole = micros(month.end() - since)?;
    let at_month_end = (u128::from(used) * whole).div_ceil(elapsed);
    let limit_reached_at = limit.filter(|&limit| used > 0 && used < limit).and_then(|limit| {
        let after = (elapsed * u128::from(limit)).div_ceil(u128::from(used));
        let after = i64::try_from(after).ok().filter(|_| after < whole)?;
        since.checked_add_signed(Duration::microseconds(after))
    });
    Some(Forecast { at_month_end: u64::try_from(at_month_end).unwrap_or(u64::MAX), limit_reached_at })
}

fn micros(duration: Duration) -> Option<u128> {
    u128::try_from(duration.num_microseconds()?).ok()
}

#[cfg(test)]
mod tests;
