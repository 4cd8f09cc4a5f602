//! Users' days with many calls, noticed as the calls come.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use ledger::UserId;
use store::projection::hours::{Touched, start_of_day};

/// Calls of a user's day from which on its hours are compacted. The days of a month just below it are 30,000 rows,
/// which history read in 155 ms on a busy machine of two cores, and in 11 ms from their hours, of three categories;
/// with a tenth of the calls there would be as many hours as rows, and nothing would be won.
const HEAVY_CALLS: u32 = 1_000;
/// Days that are counted at a time, some 60 bytes each. Of more than these those with the fewest calls are forgotten.
const MAX_DAYS: usize = 65_536;

/// A user's day.
type Day = (UserId, DateTime<Utc>);

/// Counts calls by user and day. A memory of the last ones, which starts empty: a day that is passed over is read from
/// its rows, as all others are.
#[derive(Debug, Default)]
pub(super) struct Heavy {
    calls: HashMap<Day, u32>,
}

impl Heavy {
    /// Those of a batch's days that have many calls with its calls, and had not without.
    pub(super) fn risen(&self, days: &[(Day, u32)]) -> Vec<Day> {
        let risen = days.iter().filter(|(day, calls)| {
            let before = self.calls.get(day).copied().unwrap_or_default();
            before < HEAVY_CALLS && before.saturating_add(*calls) >= HEAVY_CALLS
        });
        risen.map(|(day, _)| *day).collect()
    }

    /// Counts a batch's calls.
    pub(super) fn add(&mut self, days: &[(Day, u32)]) {
        for (day, calls) in days {
            let sum = self.calls.entry(*day).or_default();
            *sum = sum.saturating_add(*calls);
        }
        if self.calls.len() > MAX_DAYS {
            let mut sums: Vec<u32> = self.calls.values().copied().collect();
            let middle = sums.len() / 2;
            let (_, median, _) = sums.select_nth_unstable(middle);
            let median = *median;
            self.calls.retain(|_, calls| *calls > median);
        }
    }
}

/// Calls by day. Hours are sorted by user and time, but for those of completions, which add none.
pub(super) fn by_day(touched: &[Touched]) -> Vec<(Day, u32)> {
    let mut days: Vec<(Day, u32)> = Vec::new();
    for touched in touched.iter().filter(|touched| touched.calls > 0) {
        let day = (touched.user, start_of_day(touched.hour));
        match days.last_mut() {
            Some((last, calls)) if *last == day => *calls += touched.calls,
            _ => days.push((day, touched.calls)),
        }
    }
    days
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use uuid::Uuid;

    use super::*;

    fn touched(user: u128, hour: i64, calls: u32) -> Touched {
        let user = UserId::new(Uuid::from_u128(user));
        Touched { user, hour: DateTime::UNIX_EPOCH + TimeDelta::hours(hour), calls }
    }

    #[test]
    fn a_day_rises_once() {
        let mut heavy = Heavy::default();
        let day = (UserId::new(Uuid::from_u128(7)), DateTime::UNIX_EPOCH + TimeDelta::days(1));
        let hours = [touched(7, 24, 400), touched(7, 47, 400), touched(7, 48, 900), touched(8, 24, 900)];
        assert_eq!(heavy.risen(&by_day(&hours)), []);
        heavy.add(&by_day(&hours));
        assert_eq!(heavy.risen(&by_day(&[touched(7, 30, 200)])), [day]);
        heavy.add(&by_day(&[touched(7, 30, 200)]));
        assert_eq!(heavy.risen(&by_day(&[touched(7, 30, 2_000)])), []);
    }

    #[test]
    fn many_days_of_few_calls_do_not_hide_one_of_many() {
        let mut heavy = Heavy::default();
        for batch in 0..50_u128 {
            let tail = (0..20_000_u128).map(|n| touched(1_000 + batch * 20_000 + n, 0, 1));
            let hours: Vec<_> = [touched(7, 0, 30)].into_iter().chain(tail).collect();
            let risen = heavy.risen(&by_day(&hours));
            assert_eq!(risen.len(), usize::from(batch == 33), "batch {batch}");
            heavy.add(&by_day(&hours));
            assert!(heavy.calls.len() <= MAX_DAYS);
        }
    }
}
