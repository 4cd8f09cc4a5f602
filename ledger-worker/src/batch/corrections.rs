//! What the end of a call changes of the sums that held it.

use ledger::Month;
use store::projection::completions::{Completion, OpenCall};
use store::projection::summaries::key_usage::KeyCorrection;
use store::projection::summaries::{self, Correction};

use super::prepare::count;

/// Change of a completion to what the call's API key used; none if it came without one, or counts as it did before.
pub(super) fn key_correction(completion: &Completion, call: &OpenCall) -> Option<KeyCorrection> {
    let key = call.key_id.filter(|_| call.counted && !completion.counted)?;
    let of = (completion.user, Month::of(completion.call_time), key);
    Some(KeyCorrection { of, position: call.position, units: -call.units })
}

/// Change of a completion to its month's summary; none if the call did not count before.
pub(super) fn correction(completion: &Completion, call: &OpenCall) -> Option<Correction> {
    if !call.counted {
        return None;
    }
    let mut before = summaries::Delta::default();
    count(&mut before, call.category, call.units, call.response_time_ms);
    let mut after = summaries::Delta::default();
    if completion.counted {
        let time = completion.response_time_ms.map(i64::from).or(call.response_time_ms);
        count(&mut after, call.category, call.units, time);
    }
    Some(Correction {
        user: completion.user,
        month: Month::of(completion.call_time),
        position: call.position,
        delta: summaries::Delta {
            reset: None,
            analyze: after.analyze - before.analyze,
            auth: after.auth - before.auth,
            other: after.other - before.other,
            total_response_time_ms: after.total_response_time_ms - before.total_response_time_ms,
            timed_calls: after.timed_calls - before.timed_calls,
            last_updated: completion.at,
        },
    })
}
