//! Tests of reading and writing times.

use chrono::Duration;
use proptest::prelude::*;

use super::*;
use crate::month::Month;

#[test]
fn the_canonical_form_is_known() {
    let instant = DateTime::from_timestamp(1_795_492_237, 123_456_000).unwrap();
    assert_eq!(to_text(instant), "2026-11-24T03:50:37.123456Z");
    assert_eq!(parse_canonical(b"2026-11-24T03:50:37.123456Z"), Some(instant));
    assert_eq!(to_text(DateTime::<Utc>::UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
}

#[test]
fn other_forms_are_read_and_truncated() {
    let instant = DateTime::from_timestamp(1_795_492_237, 123_456_000).unwrap();
    let second = DateTime::from_timestamp(1_795_492_237, 0).unwrap();
    for (text, expected) in [
        ("2026-11-24T03:50:37.123456789Z", instant),
        ("2026-11-24T05:20:37.123456+01:30", instant),
        ("2026-11-24t03:50:37.123456z", instant),
        ("2026-11-24T03:50:37Z", second),
        ("2026-11-24T03:50:37-00:00", second),
    ] {
        assert_eq!(parse(text), Some(expected), "{text}");
    }
}

#[test]
fn what_is_no_time_is_refused() {
    for text in [
        "",
        "2026-11-24",
        "2026-11-24T03:50:37.123456",
        "2026-02-29T00:00:00.000000Z",
        "2100-02-29T00:00:00.000000Z",
        "2026-04-31T00:00:00.000000Z",
        "2026-00-01T00:00:00.000000Z",
        "2026-13-01T00:00:00.000000Z",
        "2026-01-00T00:00:00.000000Z",
        "2026-01-32T00:00:00.000000Z",
        "2026-01-01T24:00:00.000000Z",
        "2026-01-01T00:60:00.000000Z",
        "2026-01-01T00:00:61.000000Z",
        "2026-01-01T00:00:00.00000\u{e9}",
        "2026-01-01T00:00:00.-00001Z",
        "+026-01-01T00:00:00.000000Z",
        "1764000000",
    ] {
        assert_eq!(parse(text), None, "{text}");
    }
    assert!(parse("2024-02-29T00:00:00.000000Z").is_some());
    assert!(parse("2000-02-29T00:00:00.000000Z").is_some());
}

#[test]
fn instants_beyond_four_digits_are_written_as_the_nearest() {
    assert_eq!(to_text(DateTime::<Utc>::MAX_UTC), "9999-12-31T23:59:59.999999Z");
    assert_eq!(to_text(DateTime::<Utc>::MIN_UTC), "0000-01-01T00:00:00.000000Z");
}

#[test]
fn every_day_of_the_kept_years_agrees_with_chrono() {
    let mut day = DateTime::from_timestamp(-62_167_219_200, 0).unwrap();
    while day < Month::LAST.end() {
        let text = to_text(day);
        assert_eq!(parse_canonical(text.as_bytes()), Some(day), "{text}");
        assert_eq!(text, day.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
        day += Duration::days(13);
    }
}

proptest! {
    #[test]
    fn writing_and_reading_are_inverse(micros in -62_167_219_200_000_000_i64..253_402_300_800_000_000) {
        let instant = DateTime::from_timestamp_micros(micros).expect("in range");
        let text = to_text(instant);
        prop_assert_eq!(parse_canonical(text.as_bytes()), Some(instant));
        prop_assert_eq!(text, instant.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
    }

    #[test]
    fn the_short_way_reads_nothing_else_than_chrono(
        text in "[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-5][0-9]\\.[0-9]{6}Z",
    ) {
        let expected = DateTime::parse_from_rfc3339(&text).ok().map(|time| time.with_timezone(&Utc));
        prop_assert_eq!(parse_canonical(text.as_bytes()), expected);
    }
}
