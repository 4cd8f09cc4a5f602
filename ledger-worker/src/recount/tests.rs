//! Whatever is in the log, and however little memory there is: the count is the same.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use ledger::{Month, UserId};
use proptest::prelude::*;
use store::Position;
use store::operations::compare::Difference;
use store::operations::recount::{StoredCalls, StoredLink, StoredSummary};
use store::projection::audit_chain::Action;
use uuid::Uuid;

use super::differences::Differences;
use super::found::{Found, pack_link, unpack_link};
use super::judge::Judge;
use super::packed::Packer;
use super::parts::{Divided, Parts};
use super::record::{Call, Completed, LinkEvent, Record, What};
use super::scratch::{Cursor, Run, Scratch};
use super::tally::Wide;
use super::totals::Cut;

#[derive(Debug, Clone)]
enum Op {
    Call { user: u8, id: u8, at: i64, own: bool, counted: bool, request: Option<u8> },
    Complete { user: u8, id: u8, at: i64, counted: bool, request: Option<u8> },
    Reset { user: u8, id: u8, month: u8 },
    Link { user: u8, id: u8, action: u8 },
    Close { month: u8 },
    Turn { generation: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let at = 0_i64..4;
    let op = prop_oneof![
        8 => (0_u8..4, 0_u8..20, at.clone(), any::<bool>(), prop::bool::weighted(0.8), prop::option::of(0_u8..3))
            .prop_map(|(user, id, at, own, counted, request)| Op::Call { user, id, at, own, counted, request }),
        6 => (0_u8..4, 0_u8..20, at, any::<bool>(), prop::option::of(0_u8..3))
            .prop_map(|(user, id, at, counted, request)| Op::Complete { user, id, at, counted, request }),
        2 => (0_u8..4, 0_u8..3, 0_u8..2).prop_map(|(user, id, month)| Op::Reset { user, id, month }),
        2 => (0_u8..4, 0_u8..9, 0_u8..4).prop_map(|(user, id, action)| Op::Link { user, id, action }),
        1 => (0_u8..2).prop_map(|month| Op::Close { month }),
        1 => (0_u64..5).prop_map(|generation| Op::Turn { generation }),
    ];
    prop::collection::vec(op, 1..120)
}

/// Two of the four instants lie in October, two in November.
fn instant(at: i64) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 10, 31, 22, 30, 0).unwrap() + TimeDelta::minutes(45 * at)
}

fn month(n: u8) -> Month {
    Month::new(2026, 10 + u32::from(n)).unwrap()
}

fn id(parts: [u128; 4]) -> u128 {
    parts[0] << 96 | parts[1] << 64 | parts[2] << 32 | parts[3]
}

fn what(op: &Op, stored_at: DateTime<Utc>) -> Option<(u8, What<'static>)> {
    Some(match *op {
        Op::Call { user, id: n, at, own, counted, request } => {
            // An event that is published again has the request that it had.
            let request_number = request.filter(|_| own).map_or(9, u128::from);
            let place = u128::try_from(at).unwrap();
            let call = Call {
                id: id([1 + request_number, user.into(), n.into(), if own { place } else { 9 }]),
                time_us: instant(at).timestamp_micros(),
                units: 1 + u32::from(n % 3),
                response_time_ms: (n % 4 != 0).then_some(u32::from(n)),
                category: n % 3,
                counted,
                own,
                open: own && n % 2 == 0,
                key: (n % 3 == 0).then_some(90 + u128::from(n % 2)),
                request: (request_number != 9).then(|| (id([77, user.into(), request_number, 0]), stored_at)),
            };
            (user, What::Call(call))
        }
        Op::Complete { user, id: n, at, counted, request } => {
            let number = 1 + request.map_or(9, u128::from);
            let completed = Completed {
                call_id: id([number, user.into(), n.into(), u128::try_from(at).unwrap()]),
                call_time_us: instant(at).timestamp_micros(),
                at: stored_at,
                response_time_ms: counted.then_some(70),
                counted,
            };
            (user, What::Completed(completed))
        }
        Op::Reset { user, id: n, month: m } => {
            let claim = Uuid::from_u128(id([60, user.into(), n.into(), 0]));
            (user, What::Reset { claim, month: month(m), at: stored_at })
        }
        Op::Link { user, id: n, action } => {
            let link = LinkEvent {
                event_id: Uuid::from_u128(id([61, user.into(), n.into(), 0])),
                action: [Action::Stored, Action::Deleted, Action::Used, Action::Erased][usize::from(action)],
                token_id: (action != 3).then(|| Uuid::from_u128((n % 3).into())),
                token_type: (action != 3).then_some(if n % 2 == 0 { "github" } else { "gemini" }),
                purpose: (action == 2).then_some("a\tpurpose"),
                fingerprint: None,
                actor_kind: "user",
                actor_id: "",
                at: stored_at,
                event_hash: [n; 32],
            };
            (user, What::Link(link))
        }
        Op::Close { .. } | Op::Turn { .. } => return None,
    })
}

fn records(run: &Run) -> u64 {
    let (mut records, mut cursor) = (0, Cursor::default());
    while cursor.next(run).unwrap().is_some() {
        records += 1;
    }
    records
}

/// Everything that is counted, as rows that no table has, and the completions of unknown calls.
fn counted(ops: &[Op], memory_bytes: u64) -> (Vec<Difference>, u64) {
    let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
    let (mut parts, mut wide) = (Parts::of_all(&scratch, ops.len() as u64, memory_bytes), Wide::default());
    for (n, op) in (0_u64..).zip(ops) {
        let position = Position { seq: 1 + n / 3, idx: u16::try_from(n % 3).unwrap() };
        // Far enough apart that requests are forgotten between them.
        let stored_at = instant(3) + TimeDelta::minutes(i64::try_from(n / 3).unwrap());
        match (op, what(op, stored_at)) {
            (Op::Close { month: m }, _) => wide.close(position, month(*m)),
            (Op::Turn { generation }, _) => wide.turn(position, *generation),
            (_, Some((user, what))) => {
                let user = UserId::new(Uuid::from_u128(u128::from(user) * 0x1001));
                parts.push(&Record { position, user, what }).unwrap();
            }
            (_, None) => {}
        }
    }
    let last = 1 + ops.len() as u64 / 3;
    let mut judge = Judge {
        cuts: vec![
            Cut::Summaries { seq: last * 2 / 3 },
            Cut::Calls { month: month(0), seq: last * 2 / 3 + 1 },
            Cut::Calls { month: month(1), seq: last * 5 / 6 },
            Cut::Vault { seq: last },
        ],
        wide: Arc::new(wide),
        memory_bytes,
        differences: Differences::new(1_000),
        mends: None,
    };
    let (mut parts, mut unmatched) = (parts.into_parts(), 0);
    while let Some(part) = parts.pop() {
        match part.divide(memory_bytes).unwrap() {
            Divided::Whole(part) => unmatched += records(&judge.part(part).unwrap()),
            Divided::Smaller(smaller) => parts.extend(smaller),
        }
    }
    (judge.differences.into_list(), unmatched)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_memory_gives_the_same_count(ops in ops(), little in 1_u64..20_000) {
        let in_one = counted(&ops, u64::MAX);
        prop_assert_eq!(&counted(&ops, 1), &in_one);
        prop_assert_eq!(&counted(&ops, little), &in_one);
    }
}

/// It left no row, and its request is forgotten by then. The projector counts it, too (`counting::forgotten`).
#[test]
fn a_call_of_another_s_request_counts_when_it_comes_again_much_later() {
    let asked = |id| Op::Call { user: 1, id, at: 0, own: true, counted: true, request: Some(0) };
    let units = |last: Op| {
        let mut ops = vec![asked(0), asked(4)];
        ops.resize(36, Op::Turn { generation: 0 });
        ops.push(last);
        ops.resize(75, Op::Turn { generation: 0 });
        assert_eq!(counted(&ops, 1), counted(&ops, u64::MAX));
        let sums =
            counted(&ops, 1).0.into_iter().find(|difference| difference.name == "monthly_usage_summary");
        format!("{:?}", sums.unwrap())
    };
    // 16 has the units and the category of 4.
    assert_eq!(units(asked(4)), units(asked(16)));
    assert_ne!(units(asked(4)), units(Op::Turn { generation: 0 }));
}

#[test]
fn what_is_packed_is_unpacked() {
    let mut packer = Packer::default();
    let user = UserId::new(Uuid::from_u128(7));
    let position = Position { seq: 1 << 40, idx: 999 };
    for n in 0..8 {
        for op in [
            Op::Call { user: 1, id: n, at: 2, own: true, counted: true, request: Some(n % 3) },
            Op::Call { user: 1, id: n, at: 2, own: false, counted: false, request: None },
            Op::Complete { user: 1, id: n, at: 1, counted: n % 2 == 0, request: None },
            Op::Reset { user: 1, id: n, month: 1 },
            Op::Link { user: 1, id: n, action: n % 4 },
        ] {
            let (_, what) = what(&op, instant(1)).unwrap();
            let record = Record { position, user, what };
            let again = format!("{:?}", Record::unpack(record.pack(&mut packer)).unwrap());
            assert_eq!(again, format!("{record:?}"));
        }
    }
    let summary = StoredSummary {
        user,
        month: month(1),
        sums: store::operations::recount::Sums {
            units: [1, -2, 3],
            total_response_time_ms: 4,
            timed_calls: 5,
            last_updated: instant(3),
            reset: position,
        },
        limits: [Some(8), None],
        plan_limits: [None, Some(i64::MAX)],
    };
    let calls = StoredCalls {
        user,
        sums: store::operations::recount::CallSums {
            calls: 1,
            counted_calls: 2,
            units: [3, 4, 5],
            counted_units: 6,
            total_response_time_ms: 7,
            timed_calls: 8,
            checksum: -9,
        },
    };
    for found in [Found::Summary(summary), Found::Calls(month(0), calls)] {
        let again = format!("{:?}", Found::unpack(found.pack(&mut packer)).unwrap());
        assert_eq!(again, format!("{found:?}"));
    }
    let mut link = StoredLink { user, position, columns: [const { None }; 12] };
    link.columns[3] = Some("text".to_owned());
    assert_eq!(unpack_link(pack_link(&link, &mut packer)), Some(link));
}
