//! Refusals of a caller.

use credentials::Scope;

use super::accounts::AccountsError;

/// Reason why a request is not served for who sent it.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No credential, or none that is valid now: for every cause the same.
    #[error("no valid credential")]
    Unauthorized,
    /// The address has failed too often.
    #[error("too many failed credentials from this address; again in {retry_after_s} s")]
    TooManyFailures {
        /// Seconds until the address may try again.
        retry_after_s: u64,
    },
    /// The identity provider's keys cannot be read, and none is known that could have signed the token.
    #[error("the identity provider does not answer, so its tokens cannot be verified")]
    IssuerAway,
    /// The account is suspended.
    #[error("the account is suspended")]
    Suspended,
    /// The role may not do this.
    #[error("this needs the role {0}")]
    Role(&'static str),
    /// The API key lacks a scope.
    #[error("this needs an API key with the scope {}", .0.as_str())]
    Scope(Scope),
    /// No API key may do this.
    #[error("no API key may do this")]
    NotByKey,
    /// Nobody knows whether API keys have changed.
    #[error("API keys cannot be looked at")]
    KeysUnknown,
    /// There is no such user for this caller.
    #[error("there is no such user for this caller")]
    NoSuchUser,
    /// The user that is named was erased.
    #[error("the user was erased")]
    Erased,
    /// Accounts cannot be looked at.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
}
