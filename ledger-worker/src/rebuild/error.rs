//! Failures of a rebuild.

use std::time::Duration;

use data_keys::KeysError;
use nats::{LogError, Stop};

use crate::batch::{ApplyError, BatchError};
use crate::log::AheadError;
use crate::recount::{CountError, ScratchError};

/// Failure to bring a rebuild to its end. Nothing that is read was changed.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Another one is at work.
    #[error("another rebuild is at work on this database; wait for it to end")]
    Busy,
    /// There is no rebuilt schema.
    #[error("there is nothing to swap; run `usage-ledger rebuild --hold` first")]
    NothingHeld,
    /// Somebody reads all the time.
    #[error(
        "readers did not leave the tables for {} s; the rebuilt ones are kept: run `usage-ledger rebuild --swap` later",
        within.as_secs()
    )]
    Readers {
        /// The time for which they were waited for.
        within: Duration,
    },
    /// Others built on the tables.
    #[error(
        "{} would be lost with the tables that are replaced; drop what is listed, rebuild, and make it anew",
        names.join(", ")
    )]
    Dependants {
        /// Names of what they built.
        names: Vec<String>,
    },
    /// The log is not whole.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// The frames that are read make no batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// An event that is not to be passed over cannot be applied.
    #[error(transparent)]
    BrokenLink(ApplyError),
    /// Completions name calls that are not in the log before them.
    #[error("{calls} calls were completed before they began; run a full `usage-ledger rebuild`")]
    LateCompletions {
        /// Their number.
        calls: usize,
    },
    /// The dead letters changed under the count.
    #[error("dead letters were retried meanwhile; run it again")]
    DeadLettersMoved,
    /// What is counted does not fit on the disk.
    #[error(transparent)]
    Scratch(ScratchError),
    /// The users' data keys cannot be had.
    #[error("the data keys cannot be read")]
    Keys(#[from] KeysError),
    /// The database is away or refuses.
    #[error("the projections cannot be read or written")]
    Store(#[from] store::Error),
    /// The log is away.
    #[error("the log cannot be read")]
    Log(#[from] LogError),
}

impl From<ApplyError> for RebuildError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Store(error) => Self::Store(error),
            error @ ApplyError::BrokenLink { .. } => Self::BrokenLink(error),
        }
    }
}

impl From<AheadError> for RebuildError {
    fn from(error: AheadError) -> Self {
        match error {
            AheadError::Stopped(stop) => Self::Stopped(stop),
            AheadError::Log(error) => Self::Log(error),
        }
    }
}

impl From<CountError> for RebuildError {
    fn from(error: CountError) -> Self {
        match error {
            CountError::Read(error) => error.into(),
            CountError::Batch(error) => Self::Batch(*error),
            CountError::LateCompletions { calls } => Self::LateCompletions { calls },
            CountError::DeadLettersMoved => Self::DeadLettersMoved,
            CountError::Scratch(error) => Self::Scratch(error),
            CountError::Store(error) => Self::Store(error),
        }
    }
}

impl From<sqlx::Error> for RebuildError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}
