//! Things that happen to a tally and the log behind it.

use ledger::KeyId;
use proptest::prelude::*;
use uuid::Uuid;

use crate::limits::ask::AskKey;

/// Kinds of keys: none, one with a budget, the same before it had one, and another one.
const KEYS: u8 = 4;

pub(super) fn key(kind: u8) -> Option<AskKey> {
    let (id, budget) = [(0, None), (1, Some(8)), (1, None), (2, Some(5))][usize::from(kind)];
    (id > 0).then(|| AskKey { id: KeyId::new(Uuid::from_u128(id)), budget })
}

/// One thing that happens to the world; indexes are taken modulo what is there.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Admit {
        analyze: bool,
        units: u8,
        key: u8,
    },
    /// A first try of an earlier instant died, and is tried again.
    AdmitLate {
        units: u8,
        instant: u8,
        key: u8,
    },
    /// The log takes an admitted call.
    Append(u8),
    /// The api learns of it.
    Acknowledge(u8),
    /// The publisher says that a call is certainly not recorded.
    Fail(u8),
    /// The publisher does not know; the log may still take it.
    Lose(u8),
    /// A `last_seq` is read after the producer was retired.
    Resolve,
    Report {
        analyze: bool,
        units: u8,
        twice: bool,
        key: u8,
    },
    Foreign {
        units: u8,
    },
    Complete5xx(u8),
    Reset,
    Plan {
        total: u8,
        analyze: u8,
        at_month_end: bool,
    },
    Project(u8),
    Read,
    /// A reading arrives, perhaps late.
    Refresh(u8),
    NextMonth,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (any::<bool>(), 1..4_u8, 0..KEYS)
            .prop_map(|(analyze, units, key)| Step::Admit { analyze, units, key }),
        3 => (1..4_u8, any::<u8>(), 0..KEYS)
            .prop_map(|(units, instant, key)| Step::AdmitLate { units, instant, key }),
        6 => any::<u8>().prop_map(Step::Append),
        6 => any::<u8>().prop_map(Step::Acknowledge),
        1 => any::<u8>().prop_map(Step::Fail),
        1 => any::<u8>().prop_map(Step::Lose),
        2 => Just(Step::Resolve),
        2 => (any::<bool>(), 1..4_u8, any::<bool>(), 0..KEYS)
            .prop_map(|(analyze, units, twice, key)| Step::Report { analyze, units, twice, key }),
        1 => (1..4_u8).prop_map(|units| Step::Foreign { units }),
        2 => any::<u8>().prop_map(Step::Complete5xx),
        1 => Just(Step::Reset),
        1 => (0..40_u8, 0..20_u8, any::<bool>())
            .prop_map(|(total, analyze, at_month_end)| Step::Plan { total, analyze, at_month_end }),
        6 => (0..8_u8).prop_map(Step::Project),
        6 => Just(Step::Read),
        6 => any::<u8>().prop_map(Step::Refresh),
        1 => Just(Step::NextMonth),
    ];
    prop::collection::vec(step, 0..200)
}
