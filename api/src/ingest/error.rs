//! Failures of ingest.

use data_keys::KeysError;
use nats::PublishError;

use crate::auth::AccountsError;
use crate::limits::LimitsError;
use crate::metering::sealer::SealError;

/// Reason why nothing can be said about the items of a report. Sent again, the same report is safe.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Nothing is taken in now.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// Users cannot be found.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// Personal fields of the people behind the calls cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The events are not in the log, as far as anybody knows.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The database is away, or refuses.
    #[error("what is known already cannot be looked up")]
    Store(#[from] store::Error),
}

impl IngestError {
    /// Tells whether it passes by itself: log or database are away, or too much is under way. A fault would only happen
    /// again.
    pub fn is_passing(&self) -> bool {
        match self {
            // Limits become decidable, or the process ends and another one takes over.
            Self::Limits(_) => true,
            Self::Accounts(AccountsError::Store(error)) | Self::Store(error) => error.is_unavailable(),
            Self::Accounts(AccountsError::Keys(error)) | Self::Seal(SealError::Key(error)) => {
                is_passing_for_keys(error)
            }
            Self::Accounts(AccountsError::Vanished)
            | Self::Seal(SealError::Entropy(_) | SealError::Form(_)) => false,
            Self::Publish(error) => !matches!(error, PublishError::TooLarge { .. }),
        }
    }
}

/// A root key that is not configured here may be soon.
fn is_passing_for_keys(error: &KeysError) -> bool {
    match error {
        KeysError::Store(error) => error.is_unavailable(),
        other => other.missing_key().is_some(),
    }
}

impl From<KeysError> for IngestError {
    fn from(error: KeysError) -> Self {
        Self::Seal(error.into())
    }
}
