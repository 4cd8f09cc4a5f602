//! Failures of a verification.

use data_keys::KeysError;
use nats::{LogError, Stop};

use crate::batch::BatchError;
use crate::log::AheadError;
use crate::recount::{CountError, ScratchError};

/// Failure to find out whether log and tables agree.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The log is not whole.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// The frames that are read make no batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
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
    /// The user's data keys cannot be had.
    #[error("the data keys cannot be read")]
    Keys(#[from] KeysError),
    /// The database is away or refuses.
    #[error("the projections cannot be read or written")]
    Store(#[from] store::Error),
    /// The log is away.
    #[error("the log cannot be read")]
    Log(#[from] LogError),
}

impl From<AheadError> for VerifyError {
    fn from(error: AheadError) -> Self {
        match error {
            AheadError::Stopped(stop) => Self::Stopped(stop),
            AheadError::Log(error) => Self::Log(error),
        }
    }
}

impl From<CountError> for VerifyError {
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

impl From<sqlx::Error> for VerifyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}
