//! Outcomes of calls that this process has recorded, so that a second one is told from a repetition before the
//! projections have the first.

use std::sync::Arc;

use ledger::StatusCode;
use quick_cache::sync::Cache;
use store::read::call_outcomes::RecordedCall;
use uuid::Uuid;

use super::error::MeteringError;
use crate::facts::Turns;

/// Calls completed lately, whose completion may not be projected yet.
const REMEMBERED: usize = 50_000;

/// Outcomes by their calls' ids. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outcomes {
    /// One completion of a call at a time.
    pub(super) turns: Turns<()>,
    /// The last completion of a call.
    pub(super) last: Arc<Cache<Uuid, Completion>>,
}

/// Completion that this process has recorded, as far as it is known.
#[derive(Clone, Copy)]
pub(super) enum Completion {
    Recorded(Completed),
    /// It may be in the log, or not.
    Lost,
}

/// End of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct CallEnd {
    pub(super) status_code: StatusCode,
    pub(super) response_time_ms: Option<u32>,
    pub(super) response_size: Option<u64>,
}

/// A completed call.
#[derive(Clone, Copy)]
pub(super) struct Completed {
    pub(super) end: CallEnd,
    pub(super) counted: bool,
    /// A sequence of the log at or before which the completion stands.
    pub(super) seq: u64,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self { turns: Turns::new(()), last: Arc::new(Cache::new(REMEMBERED)) }
    }
}

impl Completed {
    /// The completion that the projections at `seq` show of a call, if it is completed there.
    pub(super) fn of(call: &RecordedCall, seq: u64) -> Option<Self> {
        let end = CallEnd {
            status_code: call.status_code?,
            response_time_ms: call.response_time_ms,
            response_size: call.response_size,
        };
        Some(Self { end, counted: call.counted, seq })
    }

    /// The same again is no other outcome.
    pub(super) fn repeated(self, end: CallEnd) -> Result<Self, MeteringError> {
        if self.end == end { Ok(self) } else { Err(MeteringError::OtherOutcome) }
    }
}
