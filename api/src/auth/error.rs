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
    /// Neither an API key nor a token for a page may do this.
    #[error("no API key may do this")]
    NotByKey,
    /// Only somebody who has signed in may do this.
    #[error("this needs a session")]
    NoSession,
    /// The session waits for its user's second factor.
    #[error("the second factor is still to be shown")]
    FactorDue,
    /// The admin has no second factor.
    #[error("an admin sets a second factor up first")]
    FactorMissing,
    /// A page of another site may have sent the request.
    #[error("the request does not show that a page of this site sent it")]
    CrossSite,
    /// The credential came to the proxy in the clear.
    #[error("credentials are taken over https only")]
    Insecure,
    /// Nobody knows whether API keys or sessions have changed.
    #[error("API keys and sessions cannot be looked at")]
    CredentialsUnknown,
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
