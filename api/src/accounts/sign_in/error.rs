//! Refusals of sign-ins, and of what belongs to people who have signed in.

use credentials::password::HashError;
use data_keys::KeysError;
use vault::EntropyError;

use crate::accounts::error::ApiKeysError;
use crate::accounts::log::AccountLogError;
use crate::auth::AuthError;

/// Reason why somebody is not signed in, or an account is not changed.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// Address and password are not those of anybody, or a code is none: for every cause the same.
    #[error("address or password are wrong")]
    Wrong,
    /// The link is none, was used, or has ended.
    #[error("the link is not good (any more)")]
    NoSuchLink,
    /// Too many wrong tries.
    #[error("too many failed tries; again in {retry_after_s} s")]
    TooManyTries {
        /// Seconds until the next try is looked at.
        retry_after_s: u64,
    },
    /// Too many are signing in.
    #[error("too many passwords are being looked at")]
    Busy,
    /// Nobody may make an account, or only with an invitation.
    #[error("accounts are made by invitation only, or not at all")]
    RegistrationClosed,
    /// The invited address has an account.
    #[error("the address has an account")]
    AddressTaken,
    /// Nothing would be left by which to sign in.
    #[error("nothing would be left by which to sign in")]
    LastWayIn,
    /// There is no such session of the caller's.
    #[error("there is no such session")]
    NoSuchSession,
    /// There is no such second factor of the caller's.
    #[error("there is no such second factor")]
    NoSuchFactor,
    /// The user has as many second factors as there may be.
    #[error("the user has five second factors already")]
    TooManyFactors,
    /// What is stored of a second factor is not as it was sealed.
    #[error("a second factor is not as it was sealed")]
    FactorUnreadable,
    /// The user's data key is not at hand.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The account may not be used.
    #[error("the account may not be used")]
    Barred,
    /// The person was there too long ago.
    #[error("this needs a sign-in of the last 15 minutes")]
    Stale,
    /// A field is wrong.
    #[error("{field} is wrong: {detail}")]
    Field {
        /// Its name.
        field: &'static str,
        /// A stable cause.
        code: &'static str,
        /// What is wrong, for a person.
        detail: String,
    },
    /// The caller is refused.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A password is neither hashed nor verified.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// API keys are not revoked.
    #[error(transparent)]
    ApiKeys(#[from] ApiKeysError),
    /// There are no random bytes.
    #[error("a secret cannot be made")]
    Entropy(#[from] EntropyError),
    /// It is not in the log.
    #[error(transparent)]
    Log(#[from] AccountLogError),
    /// The database is away, or refuses.
    #[error("accounts cannot be read or changed")]
    Store(#[from] store::Error),
}
