//! Outcomes of calls: how a call ended, and what became of the event that says so.

use chrono::TimeDelta;
use ledger::StatusCode;
use store::read::call_outcomes::RecordedCall;

use super::error::MeteringError;

/// A call may be completed so long after its beginning.
pub(super) const MAX_AGE: TimeDelta = TimeDelta::hours(1);

/// Completion by this process, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completion {
    Recorded(Completed),
    /// It may be in the log, or not.
    Lost,
}

/// End of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallEnd {
    pub(super) status_code: StatusCode,
    pub(super) response_time_ms: Option<u32>,
    pub(super) response_size: Option<u64>,
}

/// A completed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Completed {
    pub(super) end: CallEnd,
    pub(super) counted: bool,
    /// A sequence of the log at or before which the completion stands.
    pub(super) seq: u64,
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
