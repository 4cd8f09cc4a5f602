//! Tests of the forecast.

use proptest::prelude::*;

use super::*;

fn november() -> Month {
    Month::new(2026, 11).unwrap()
}

#[test]
fn there_is_no_forecast_before_a_day_of_data() {
    let start = november().start();
    let day = Duration::days(1);
    let micro = Duration::microseconds(1);
    assert_eq!(forecast(november(), start, start + day - micro, 5, Some(10)), None);
    assert!(forecast(november(), start, start + day, 5, Some(10)).is_some());
    // A reset restarts the data; what lies before the month does not lengthen it.
    assert_eq!(forecast(november(), start + day, start + day * 2 - micro, 5, None), None);
    assert_eq!(forecast(november(), start - day, start + day - micro, 5, None), None);
    assert_eq!(forecast(november(), start, start - day, 5, None), None);
}

#[test]
fn a_straight_line_meets_the_limit_and_the_end() {
    let start = november().start();
    let at = start + Duration::days(10);
    let expected = Forecast { at_month_end: 24, limit_reached_at: Some(start + Duration::hours(300)) };
    assert_eq!(forecast(november(), start, at, 8, Some(10)), Some(expected));
    let later = forecast(november(), start + Duration::days(5), at, 8, Some(10)).unwrap();
    assert_eq!(later.at_month_end, 40);
    assert_eq!(later.limit_reached_at, Some(start + Duration::days(5) + Duration::hours(150)));
}

#[test]
fn a_limit_that_is_not_met_has_no_date() {
    let start = november().start();
    let at = start + Duration::days(15);
    let met = |used, limit| forecast(november(), start, at, used, limit).unwrap().limit_reached_at;
    assert_eq!(met(10, None), None);
    assert_eq!(met(10, Some(10)), None, "it is reached already");
    assert_eq!(met(10, Some(20)), None, "only the month's end would reach it");
    assert!(met(10, Some(19)).is_some());
    assert_eq!(met(0, Some(1)), None);
    assert_eq!(met(1, Some(u64::MAX)), None);
}

#[test]
fn a_month_that_is_over_is_its_own_forecast() {
    let after = november().end() + Duration::days(400);
    let over = Forecast { at_month_end: 7, limit_reached_at: None };
    assert_eq!(forecast(november(), november().start(), after, 7, Some(10)), Some(over));
}

proptest! {
    #[test]
    fn a_forecast_is_never_below_what_is_used(
        month in 0..(8_000 * 12_u32),
        minutes in 1_440..44_000_i64,
        used in any::<u64>(),
        limit in any::<Option<u64>>(),
    ) {
        let month = Month::new(2_000 + month / 12, month % 12 + 1).expect("a kept month");
        let now = month.start() + Duration::minutes(minutes);
        let forecast = forecast(month, month.start(), now, used, limit).expect("more than a day");
        prop_assert!(forecast.at_month_end >= used);
        if let Some(reached) = forecast.limit_reached_at {
            let limit = limit.expect("only a limit is reached");
            prop_assert!(now < reached && reached < month.end() && used < limit && limit <= forecast.at_month_end);
        }
    }
}
