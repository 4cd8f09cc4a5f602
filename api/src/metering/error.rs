//! Failures of metering.

use nats::{LogError, PublishError};

use super::sealer::SealError;
use crate::limits::LimitsError;

/// Reason why a call is not decided about, recorded or completed.
#[derive(Debug, thiserror::Error)]
pub enum MeteringError {
    /// The limits cannot be decided now.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// Personal fields of the person behind the call cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The event is not in the log, as far as anybody knows.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The database is away, or refuses.
    #[error("the call cannot be looked up")]
    Store(#[from] store::Error),
    /// The log does not say how far it is.
    #[error("the log does not say how far it is")]
    Log(#[from] LogError),
    /// An earlier try may have recorded the call, and it is not known yet whether it did.
    #[error("the fate of the first try is not known yet")]
    FirstTryUnknown,
    /// A fault of this program, which the panic hook has reported.
    #[error("the work on the call panicked")]
    Panicked,
    /// Other completions of the call take their time.
    #[error("other completions of the call are still being recorded")]
    Turn,
    /// An earlier completion may be in the log, and it is not known yet whether it is.
    #[error("the fate of an earlier completion is not known yet")]
    EarlierCompletionUnknown,
    /// The call may have been recorded a moment ago: the projections do not say yet.
    #[error("calls recorded lately are not projected yet")]
    NotProjected,
    /// There is no such call.
    #[error("there is no such call")]
    NoSuchCall,
    /// The call's hour is over.
    #[error("the call was made more than an hour ago")]
    TooLate,
    /// The call is completed, and otherwise.
    #[error("the call is completed with another outcome")]
    OtherOutcome,
}
