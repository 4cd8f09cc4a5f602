//! Failures of tokens.

use nats::PublishError;
use vault::{EntropyError, TokenRefused};

use crate::metering::sealer::SealError;

/// Reason why a token is not stored, used or deleted.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It is no token of its kind.
    #[error(transparent)]
    Refused(#[from] TokenRefused),
    /// The name is shown, and would show the token.
    #[error("the name holds the token, which would be shown with it")]
    NameHoldsToken,
    /// There is no such token for this caller.
    #[error("there is no such token")]
    NoSuchToken,
    /// The stored token is not as it was sealed.
    #[error("the stored token does not open")]
    Unreadable,
    /// It cannot be sealed, or its user's data key cannot be had.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// There are no random bytes.
    #[error("the token cannot be sealed")]
    Entropy(#[from] EntropyError),
    /// The event is not in the log, as far as anybody knows.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The database is away, or refuses.
    #[error("tokens cannot be read")]
    Store(#[from] store::Error),
}
