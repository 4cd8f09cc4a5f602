//! When too much is skipped, and what a report says.

use super::*;
use crate::import::call::LineError;
use crate::output;

fn numbered(line: u64, user: &str) -> Numbered {
    let call = Call {
        user: user.parse().unwrap(),
        time: "2026-11-30T06:00:01Z".parse().unwrap(),
        endpoint: "/api/\u{202e}x".into(),
        method: Some("GET".into()),
        status_code: Some(200),
        response_time_ms: None,
        ip_address: None,
        user_agent: Some("a".repeat(300)),
        request_size: None,
        response_size: None,
        units: None,
    };
    Numbered { line, id: String::new(), call, notes: Vec::new(), excerpt: Excerpt::default() }
}

fn skipped(line: u64, error: LineError) -> Skipped {
    Skipped { line, error, excerpt: Excerpt::of(b"\x1b[31m of a line") }
}

fn counted(calls: u64, skipped_lines: u64) -> Tally {
    let mut tally = Tally::default();
    for line in 0..calls {
        tally.add(&numbered(line, "a"), true);
    }
    for line in 0..skipped_lines {
        tally.skip(&skipped(line, LineError::NoUser));
    }
    tally
}

#[test]
fn more_than_5_percent_is_too_much() {
    for (calls, skipped, expected) in [
        (0, 0, false),
        (95, 5, false),
        (94, 5, true),
        (19, 1, false),
        (18, 1, true),
        (0, 1, true),
        (100, 6, true),
    ] {
        assert_eq!(counted(calls, skipped).has_too_many_skipped(), expected, "{skipped} beside {calls}");
    }
    assert!(counted(0, 1).is_failure() && !counted(1, 1).is_failure() && !counted(0, 0).is_failure());
}

#[test]
fn skipped_lines_are_counted_by_kind_and_their_kinds_bounded() {
    let mut tally = Tally::default();
    let fault = |member: u64| LineError::Member {
        member: crate::import::call::Quoted::new(&member.to_string()),
        field: "time",
        expected: "a time",
    };
    for line in 1..=200 {
        tally.skip(&skipped(line, fault(line)));
    }
    assert_eq!(tally.skip(&skipped(201, LineError::NoUser)), 151);
    assert_eq!(tally.skip(&skipped(202, fault(1))), 2);
    assert!(tally.kinds.len() <= MAX_KINDS + 1);
    let mut text = Vec::new();
    counted(0, 3).write_skipped(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let expected =
        "         3  nobody is named as the user (--user-from); first line 0: \"\\u{1b}[31m of a line\"";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn the_first_lines_and_the_biggest_users_are_shown() {
    let mut tally = Tally::default();
    let batch = |lines: std::ops::Range<u64>| Batch {
        calls: lines.clone().filter(|line| line % 2 == 0).map(|line| numbered(line, "a")).collect(),
        skipped: lines.filter(|line| line % 2 == 1).map(|line| skipped(line, LineError::NoUser)).collect(),
        ..Batch::default()
    };
    tally.look_at(&batch(0..3));
    tally.look_at(&batch(3..20));
    tally.look_at(&batch(20..40));
    assert_eq!(tally.first.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    for user in 0..12_u64 {
        for line in 0..=user {
            tally.add(&numbered(line, &format!("user-{user:02}")), true);
        }
    }
    let mut text = Vec::new();
    tally.write_reading(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains(
            "line 0: user a, 2026-11-30T06:00:01+00:00, GET /api/\\u{202e}x, status 200, agent aaa"
        )
    );
    let users: Vec<&str> = text.lines().filter(|line| line.contains("  user-")).collect();
    assert_eq!(users.len(), SHOWN_USERS);
    assert_eq!(users[0].split_whitespace().collect::<Vec<_>>(), ["12", "user-11"]);
    assert!(text.lines().all(|line| line.len() < 300 && output::printable(line) == line), "{text}");
}
