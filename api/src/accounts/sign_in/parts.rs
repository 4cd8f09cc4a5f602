//! Parts that sign-ins work with.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use credentials::Secret;
use ledger::UserId;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use store::identity::sessions;
use vault::{Entropy as _, EntropyError, OsEntropy};

use super::backoff::Backoff;
use super::error::SignInError;
use super::github_way::GitHubSignIn;
use super::hasher::Hasher;
use super::page_tokens::PageTokens;
use crate::accounts::ApiKeys;
use crate::accounts::log::AccountLog;
use crate::accounts::transaction::in_transaction;
use crate::auth::{Auth, Credentials};
use crate::config::Registration;
use crate::http::site::Site;
use crate::http::throttle::Throttle;
use crate::metering::sealer::Sealer;

/// People who sign in. Cheap to clone.
#[derive(Clone)]
pub struct SignIn(pub(super) Arc<Parts>);

/// Parts of [`SignIn`].
pub(crate) struct Parts {
    /// Where people and sessions are.
    pub(crate) pool: PgPool,
    /// What is remembered of sessions.
    pub(crate) credentials: Credentials,
    /// Counts failures.
    pub(crate) auth: Auth,
    /// Cookies.
    pub(crate) site: Site,
    /// What happens to accounts.
    pub(crate) log: AccountLog,
    /// API keys, which end with what somebody else has set up.
    pub(crate) keys: ApiKeys,
    /// Tokens for pages.
    pub(crate) page_tokens: PageTokens,
    /// Passwords.
    pub(crate) hasher: Hasher,
    /// Tries at passwords.
    pub(crate) tries: Backoff,
    /// Tries at second factors.
    pub(crate) codes: Backoff,
    /// Seals secrets of second factors.
    pub(crate) sealer: Sealer,
    /// GitHub as a way in, if it is one.
    pub(crate) github: Option<GitHubSignIn>,
    /// Sign-ins of a user.
    pub(crate) sign_ins: Throttle,
    /// Sign-ins elsewhere that an address begins.
    pub(crate) starts: Throttle<IpAddr>,
    /// Who may make an account.
    pub(crate) registration: Registration,
    /// Ten changes of an account a minute per user.
    pub(crate) changes: Throttle,
}

impl SignIn {
    /// Works with these.
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.0.log.now()
    }

    pub(super) async fn connection(&self) -> Result<PoolConnection<Postgres>, store::Error> {
        Ok(self.0.pool.acquire().await?)
    }

    /// Does this to the tables in a transaction, or nothing. It waits for nobody for long: others would wait for it.
    pub(super) async fn in_transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, SignInError>,
    ) -> Result<T, SignInError> {
        in_transaction(&self.0.pool, "changing an account", work).await
    }
}

/// A new secret.
pub(super) fn new_secret() -> Result<Secret, EntropyError> {
    Secret::make(|bytes| OsEntropy.fill(bytes))
}

/// Locks the account against its end, against being barred, and against who changes what its user signs in with.
pub(super) async fn hold(conn: &mut PgConnection, user: UserId) -> Result<(), SignInError> {
    if sessions::lock_active(conn, user).await? { Ok(()) } else { Err(SignInError::Barred) }
}
