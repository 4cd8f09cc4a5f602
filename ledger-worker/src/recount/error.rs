//! Failures of a count.

use nats::{LogError, Stop};

use crate::batch::BatchError;
use crate::log::AheadError;

use super::scratch::ScratchError;

/// Failure to count the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CountError {
    /// The log is not whole, or away.
    #[error(transparent)]
    Read(#[from] AheadError),
    /// Its frames make no batch.
    #[error(transparent)]
    Batch(Box<BatchError>),
    /// Completions name calls that are not in the log before them.
    #[error("{calls} calls were completed before they began")]
    LateCompletions {
        /// Their number.
        calls: usize,
    },
    /// The dead letters changed under the count.
    #[error("dead letters were retried meanwhile; run it again")]
    DeadLettersMoved,
    /// The disk is full.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The database is away or refuses.
    #[error("the projections cannot be read or written")]
    Store(#[from] store::Error),
}

impl From<BatchError> for CountError {
    fn from(error: BatchError) -> Self {
        Self::Batch(Box::new(error))
    }
}

impl From<Stop> for CountError {
    fn from(stop: Stop) -> Self {
        Self::Read(AheadError::Stopped(stop))
    }
}

impl From<LogError> for CountError {
    fn from(error: LogError) -> Self {
        Self::Read(AheadError::Log(error))
    }
}

impl From<sqlx::Error> for CountError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}
