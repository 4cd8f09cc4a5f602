//! Failures of users.

use data_keys::KeysError;
use nats::PublishError;

use crate::auth::AccountsError;

/// Reason why a user is not changed, erased or exported.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The external id is another user's.
    #[error("the external id is another user's")]
    ExternalIdTaken,
    /// The user, or whoever bore the external id before, was erased.
    #[error("the user was erased")]
    Erased,
    /// A service gives an account another external id, or its first one after it was made.
    #[error("an external id is changed by a service")]
    RenamedByService,
    /// A service changes the status of an account that an admin uses.
    #[error("the status of an admin's account is changed by a service")]
    AdminBarredByService,
    /// A service erases an account that an admin uses.
    #[error("an admin's account is erased by a service")]
    AdminErasedByService,
    /// There is no such user.
    #[error("there is no such user")]
    NoSuchUser,
    /// A user erases itself with a fresh credential only.
    #[error("the credential was not issued in the last 15 minutes")]
    StaleCredential,
    /// The erasure is on disk in the log, and no more is known of it yet.
    #[error("the erasure is not projected yet")]
    ErasureNotProjected,
    /// The user is being erased: what is held of it is half gone.
    #[error("the user is being erased")]
    BeingErased,
    /// The caller has an export under way.
    #[error("an earlier export of the caller is still under way")]
    ExportUnderWay {
        /// Seconds after which to ask again.
        retry_after_s: u64,
    },
    /// Too many exports are under way.
    #[error("too many exports are under way")]
    TooManyExports,
    /// The answer cannot be written as JSON.
    #[error("an export cannot be written")]
    Json(#[from] serde_json::Error),
    /// Accounts cannot be looked at.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// Data keys or external ids cannot be worked with.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The erasure is not in the log, as far as anybody knows.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The database is away, or refuses.
    #[error("the user cannot be read or changed")]
    Store(#[from] store::Error),
}
