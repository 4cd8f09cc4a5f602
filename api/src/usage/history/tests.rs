//! Tests of history's periods.

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    ledger::time::parse(text).unwrap()
}

fn range(from: &str, to: &str) -> TimeRange {
    TimeRange { from: at(from), to: at(to) }
}

#[test]
fn periods_cover_a_range_that_cuts_them() {
    let days =
        periods(range("2026-10-31T10:30:00Z", "2026-11-02T00:00:00.000001Z"), Granularity::Day).unwrap();
    assert_eq!(days, ["2026-10-31", "2026-11-01", "2026-11-02"].map(|day| at(&format!("{day}T00:00:00Z"))));
    let months = periods(range("2026-11-30T23:59:59Z", "2027-01-01T00:00:00Z"), Granularity::Month).unwrap();
    assert_eq!(months, [at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z")]);
    let hours = periods(range("2026-11-30T23:59:59Z", "2026-12-01T00:00:01Z"), Granularity::Hour).unwrap();
    assert_eq!(hours, [at("2026-11-30T23:00:00Z"), at("2026-12-01T00:00:00Z")]);
}

#[test]
fn ten_thousand_periods_and_no_more() {
    let from = at("2026-01-01T00:00:00Z");
    let hours = |hours| periods(TimeRange { from, to: from + TimeDelta::hours(hours) }, Granularity::Hour);
    assert_eq!(hours(10_000).unwrap().len(), 10_000);
    let refused = hours(10_001).unwrap_err();
    assert_eq!(refused.errors()[0].code, "too_many_points");
    // The widest range that can be written ends the count, not the memory.
    assert!(periods(range("0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z"), Granularity::Hour).is_err());
    assert!(periods(range("0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z"), Granularity::Month).is_err());
    assert_eq!(
        periods(range("9999-12-01T00:00:00Z", "9999-12-31T23:59:59Z"), Granularity::Month).unwrap().len(),
        1
    );
}

#[test]
fn a_period_without_calls_is_zero_and_has_no_average() {
    let periods = [at("2026-11-01T00:00:00Z"), at("2026-11-02T00:00:00Z")];
    let bucket = |timed_calls| Bucket {
        period: periods[1],
        group: "auth".to_owned(),
        units: 5,
        calls: 3,
        total_response_time_ms: 5,
        timed_calls,
    };
    let groups = ["analyze".to_owned(), "auth".to_owned()];
    let points = complete(&periods, &groups, vec![bucket(2)], true);
    let figures: Vec<_> = points.iter().map(|p| (p.units, p.calls, p.avg_response_time_ms)).collect();
    assert_eq!(figures, [(0, 0, None), (0, 0, None), (0, 0, None), (5, 3, Some(2))]);
    assert_eq!(complete(&periods, &groups, vec![bucket(0)], true)[3].avg_response_time_ms, None);
}

#[test]
fn csv_is_a_matter_of_format_then_accept() {
    let accept = |value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("accept", value.parse().unwrap());
        headers
    };
    assert!(!wants_csv(None, &HeaderMap::new()));
    assert!(wants_csv(None, &accept("text/csv")));
    assert!(wants_csv(None, &accept("application/json;q=0.5, text/csv")));
    assert!(!wants_csv(None, &accept("text/csv;q=0.1, */*;q=0.5")));
    assert!(!wants_csv(None, &accept("text/csv;q=0, application/json")));
    assert!(!wants_csv(None, &accept("text/html,application/xhtml+xml,*/*;q=0.8")));
    assert!(wants_csv(Some(Format::Csv), &accept("application/json")));
    assert!(!wants_csv(Some(Format::Json), &accept("text/csv")));
}
