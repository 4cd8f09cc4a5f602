//! Failures of API keys.

use nats::PublishError;
use vault::EntropyError;

use crate::facts::TurnTimeout;
use crate::metering::sealer::SealError;

/// Reason why an API key is not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeysError {
    /// There is no such key for this caller.
    #[error("there is no such API key")]
    NoSuchKey,
    /// The key was revoked, for ever.
    #[error("the API key was revoked")]
    Revoked,
    /// The user has as many as there may be.
    #[error("the user has 50 API keys already; revoke one")]
    TooMany,
    /// The user was erased.
    #[error("the user was erased")]
    Erased,
    /// A scope is none of the key's role.
    #[error("a key of role {role} cannot have: {scopes}")]
    Scopes {
        /// The role.
        role: &'static str,
        /// The scopes that it cannot have.
        scopes: String,
    },
    /// What a service does, it does for somebody else, whose plan bounds it.
    #[error("a key of role service has no budget: its calls are those of the users for whom it makes them")]
    ServiceBudget,
    /// The key would be over before it began.
    #[error("a key must end in the future")]
    Past,
    /// Keys of services are an admin's alone.
    #[error("keys of role service are an admin's alone")]
    NotByUser,
    /// Earlier changes of the key took too long.
    #[error(transparent)]
    Turn(#[from] TurnTimeout),
    /// There are no random bytes.
    #[error("a key cannot be made")]
    Entropy(#[from] EntropyError),
    /// What is known of the caller cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The event is not in the log, as far as anybody knows.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The database is away, or refuses.
    #[error("API keys cannot be read or changed")]
    Store(#[from] store::Error),
}
