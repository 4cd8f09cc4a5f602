//! Callers: bearer tokens, API keys and sessions, the principals they name, and what a handler's signature says about
//! who may call it.
//!
//! A handler takes [`User`], [`UserOrAdmin`], [`UserOnly`], [`ServiceOrAdmin`] or [`Eraser`], each with the scope that
//! an API key [`needs`], or [`SignedIn`]; a request that does not qualify never reaches it. What only an admin may do,
//! a user may do for itself where a setting says so: such a handler takes [`User`] and asks for the role. Every way in
//! which a credential can be wrong gives the same 401.

mod access;
mod accounts;
mod api_keys;
mod callers;
mod changes;
mod error;
mod failures;
mod issuer_keys;
mod key_set;
mod page_scopes;
mod presented;
mod principal;
mod refused;
mod remembered;
mod sessions;
mod token;

pub(crate) use access::sentence;
pub use access::{Access, ROUTES, RouteAccess, markdown};
pub use accounts::{Accounts, AccountsError};
pub use api_keys::KnownKeys;
pub use callers::{Eraser, Needs, ServiceOrAdmin, SignedIn, SigningIn, User, UserOnly, UserOrAdmin, needs};
pub use changes::Credentials;
pub use error::AuthError;
pub(crate) use page_scopes::named as page_scope;
pub(crate) use presented::X_API_KEY;
pub(crate) use principal::Seen;
pub use principal::{Credential, Principal, UsedKey, UsedSession};
pub use refused::Refused;
pub use sessions::{KnownSessions, SessionLifetime};
pub use token::{ISSUER, JwtKeyError, JwtSettings, Mint, MintError, Role, mint};

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::request::Parts as RequestParts;
use credentials::{KeyRole, Secret};
use data_keys::Keys;
use ledger::{Clock, UserId, UserRef};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use store::identity::users::{Account, AccountStatus};

use crate::http::client::{TrustedProxies, client_address};
use crate::http::site::{Cookie, Site};
use api_keys::KnownKey;
use failures::Failures;
use presented::{Presented, presented};
use token::{Reason, Verified, Verifier};

/// Tokens whose signature need not be checked again. An entry takes about 200 bytes.
const VERIFIED_TOKENS: usize = 50_000;

/// Label of the CSRF token that follows from a session's secret.
const CSRF: &str = "usage-ledger csrf token";

/// The CSRF token of the session that has this secret.
pub(crate) fn csrf_token(secret: &Secret) -> String {
    secret.derive(CSRF)
}

/// Whether the browser says that a page of this site, or nobody's, sends the request; one that says nothing may.
pub(crate) fn is_of_this_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or_default());
    site.is_none_or(|site| matches!(site, "same-origin" | "none"))
}

/// Verifies bearer tokens, API keys and sessions. Cheap to clone.
#[derive(Clone)]
pub struct Auth(Arc<Parts>);

struct Parts {
    verifier: Verifier,
    credentials: Credentials,
    site: Site,
    proxies: TrustedProxies,
    clock: Clock,
    /// Verified tokens by their SHA-256, so that no token lies in memory longer than its request. Times are checked on
    /// every use; the rest of a token cannot change.
    verified: Cache<[u8; 32], Arc<Verified>>,
    failures: Failures,
    refused: Refused,
}

impl Auth {
    /// Accepts tokens as `settings` says, and those of roles that a root key of `keys` signed, at the time of `clock`,
    /// and `credentials`, of users who have an account. `proxies` are believed when they name a client's address.
    pub fn new(
        settings: &JwtSettings,
        keys: Keys,
        credentials: Credentials,
        site: Site,
        proxies: TrustedProxies,
        clock: Clock,
    ) -> Result<Self, JwtKeyError> {
        Ok(Self(Arc::new(Parts {
            verifier: Verifier::new(settings, keys, clock.clone())?,
            credentials,
            site,
            proxies,
            refused: Refused::new(clock.clone()),
            clock,
            verified: Cache::new(VERIFIED_TOKENS),
            failures: Failures::default(),
        })))
    }

    /// What was refused, gathered for the log.
    pub fn refused(&self) -> &Refused {
        &self.0.refused
    }

    /// Names the caller of a request, or refuses it: 401 (429 after too many failures), or 403 when suspended. The
    /// account is looked up on every request (in a cache that a change empties), so that a suspension holds at once. A
    /// session is looked for only if `takes_sessions`, and if there is no other credential.
    pub(crate) async fn authenticate(
        &self,
        parts: &RequestParts,
        takes_sessions: bool,
    ) -> Result<Principal, AuthError> {
        let address = self.address(parts);
        let principal = match presented(&parts.headers) {
            Presented::Nothing if takes_sessions => self.by_session(parts, address).await?,
            Presented::Nothing | Presented::TooMuch => return Err(self.refuse(Reason::Missing, None)),
            Presented::Token(token) => {
                self.must_be_secure(parts)?;
                self.by_token(token, address).await?
            }
            Presented::Key(key) => {
                self.must_be_secure(parts)?;
                self.by_key(key, address).await?
            }
        };
        if let Some(seen) = parts.extensions.get::<Seen>() {
            // A handler authenticates once; should it do so twice, the first result stands.
            let _ = seen.0.set(principal);
        }
        Ok(principal)
    }

    /// Address that a request came from.
    pub(crate) fn address(&self, parts: &RequestParts) -> IpAddr {
        client_address(parts, &self.0.proxies)
    }

    /// What is remembered of keys, sessions and accounts.
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    /// Refuses what came to a trusted proxy in the clear, where clients are to use https.
    pub(crate) fn must_be_secure(&self, parts: &RequestParts) -> Result<(), AuthError> {
        if !self.0.site.is_https() || !self.0.proxies.contain_peer(parts) {
            return Ok(());
        }
        let said = parts.headers.get_all("x-forwarded-proto").iter().filter_map(|value| value.to_str().ok());
        let mut hops = said.flat_map(|value| value.split(','));
        if hops.any(|hop| hop.trim().eq_ignore_ascii_case("http")) {
            Err(AuthError::Insecure)
        } else {
            Ok(())
        }
    }

    /// Refuses a request that changes something and does not show that a page of this site sent it: the page knows the
    /// CSRF token of its session, and a browser says of what site the page is.
    fn must_be_ours(parts: &RequestParts, secret: &Secret) -> Result<(), AuthError> {
        if parts.method.is_safe() {
            return Ok(());
        }
        let token =
            parts.headers.get("x-csrf-token").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_known = credentials::is_same(token, &csrf_token(secret));
        if is_of_this_site(&parts.headers) && is_known { Ok(()) } else { Err(AuthError::CrossSite) }
    }

    async fn by_session(&self, parts: &RequestParts, address: IpAddr) -> Result<Principal, AuthError> {
        let missing = || self.refuse(Reason::Missing, None);
        let secret = self.0.site.secret(&parts.headers, Cookie::Session).ok_or_else(missing)?;
        self.must_be_secure(parts)?;
        self.0.credentials.check_fresh().map_err(|changes::Stale| AuthError::CredentialsUnknown)?;
        let sessions = self.0.credentials.sessions();
        let (hash, now) = (secret.hash(), self.0.clock.now());
        let known = if let Some(known) = sessions.cached(&hash, now) {
            known
        } else {
            self.must_be_patient(address)?;
            let found = sessions.find(&hash).await?;
            found.ok_or_else(|| self.refuse(Reason::UnknownSession, Some(address)))?
        };
        // A session that has ended is no attack: a browser may send it for a while.
        sessions.valid_at(&known, now).map_err(|reason| self.refuse(reason, None))?;
        Self::must_be_ours(parts, &secret)?;
        let found = &known.found;
        let account = self.account(&UserRef::Id(found.user), address).await?;
        sessions.note_use(&known, now);
        Ok(Principal {
            user_id: account.user_id,
            role: if account.is_admin { Role::Admin } else { Role::User },
            address,
            issued_at_s: Some(found.proven_at.timestamp()),
            credential: Credential::Session(UsedSession {
                id: found.id,
                method: found.method,
                is_pending: found.is_pending,
                has_factor: found.has_factor,
            }),
        })
    }

    /// The account, if it may be used. None is made.
    async fn account(&self, user: &UserRef, address: IpAddr) -> Result<Account, AuthError> {
        let accounts = self.0.credentials.accounts();
        let account = match accounts.cached(user) {
            Some(account) => Some(account),
            None => accounts.find(user).await?,
        };
        self.usable(account, address)
    }

    async fn by_token(&self, token: &str, address: IpAddr) -> Result<Principal, AuthError> {
        let verified = self.verify(token, address).await?;
        let account = match self.0.credentials.accounts().cached(&verified.subject) {
            Some(account) => Some(account),
            None => self.0.credentials.accounts().find_or_provision(&verified.subject).await?,
        };
        let account = self.usable(account, address)?;
        if verified.role == Role::Admin && !account.used_by_admin {
            self.0.credentials.accounts().mark_admin(account.user_id).await?;
        }
        Ok(Principal {
            user_id: account.user_id,
            role: verified.role,
            address,
            issued_at_s: verified.issued_at_s,
            credential: verified.scopes.map_or(Credential::Token, Credential::BrowserToken),
        })
    }

    async fn by_key(&self, text: &str, address: IpAddr) -> Result<Principal, AuthError> {
        let keys = self.0.credentials.keys();
        // What has not the form of a key of ours is refused by that alone.
        let hash = keys.hash(text).map_err(|reason| self.refuse(reason, Some(address)))?;
        self.0.credentials.check_fresh().map_err(|changes::Stale| AuthError::CredentialsUnknown)?;
        let known = match keys.cached(&hash) {
            Some(known) => known,
            None => self.look_up(&hash, address).await?,
        };
        let now = self.0.clock.now();
        api_keys::valid_at(&known.found, now, address)
            .map_err(|reason| self.refuse(reason, Some(address)))?;
        let account = self.account(&UserRef::Id(known.found.user), address).await?;
        keys.note_use(&known, now);
        let terms = &known.found.terms;
        Ok(Principal {
            user_id: account.user_id,
            role: match known.found.role {
                KeyRole::User => Role::User,
                KeyRole::Service => Role::Service,
            },
            address,
            issued_at_s: None,
            credential: Credential::Key(UsedKey {
                id: known.found.id,
                scopes: terms.scopes,
                budget: terms.budget,
            }),
        })
    }

    /// Looks a key up, unless its address has failed too often: making keys up costs the database no more than that.
    async fn look_up(&self, hash: &credentials::Hash, address: IpAddr) -> Result<Arc<KnownKey>, AuthError> {
        self.must_be_patient(address)?;
        let found = self.0.credentials.keys().find(hash).await?;
        found.ok_or_else(|| self.refuse(Reason::UnknownKey, Some(address)))
    }

    /// Refuses an address that has failed too often this minute.
    pub(crate) fn must_be_patient(&self, address: IpAddr) -> Result<(), AuthError> {
        match self.0.failures.exhausted(address, self.0.clock.now()) {
            Some(retry_after_s) => Err(AuthError::TooManyFailures { retry_after_s }),
            None => Ok(()),
        }
    }

    /// The account, if there is one that may be used.
    fn usable(&self, account: Option<Account>, address: IpAddr) -> Result<Account, AuthError> {
        let account = account.filter(|account| account.status != AccountStatus::Erased);
        let account = account.ok_or_else(|| self.refuse_unknown_user(address))?;
        if account.status == AccountStatus::Suspended {
            return Err(AuthError::Suspended);
        }
        Ok(account)
    }

    /// The user whose things a request is about: the caller, or the one that it names (`?user_id=`, path, body). A name
    /// that is not one, that nobody has, or (for role user) that is another's, is [`AuthError::NoSuchUser`].
    pub async fn resolve(&self, caller: &Principal, named: Option<&str>) -> Result<UserId, AuthError> {
        let Some(named) = named else { return Ok(caller.user_id) };
        if named == "me" {
            return Ok(caller.user_id);
        }
        let user: UserRef = named.parse().map_err(|_| AuthError::NoSuchUser)?;
        if caller.role == Role::User {
            // Others are not looked up: how long that takes would tell whether they exist.
            let is_own = self.0.credentials.accounts().are_own(caller.user_id, &[Some(user)]).await?;
            return if is_own == [true] { Ok(caller.user_id) } else { Err(AuthError::NoSuchUser) };
        }
        Ok(self.0.credentials.accounts().find(&user).await?.ok_or(AuthError::NoSuchUser)?.user_id)
    }

    /// [`Auth::resolve`] for a request that changes something: not of a user who was erased.
    pub async fn resolve_living(&self, caller: &Principal, named: Option<&str>) -> Result<UserId, AuthError> {
        let user = self.resolve(caller, named).await?;
        if user != caller.user_id {
            let account = self.0.credentials.accounts().find(&UserRef::Id(user)).await?;
            if account.is_some_and(|account| account.status == AccountStatus::Erased) {
                return Err(AuthError::Erased);
            }
        }
        Ok(user)
    }

    /// [`Auth::resolve_living`], which with `AUTO_PROVISION` makes an account for a user whom nobody has heard of. No
    /// user is made on another user's word.
    pub async fn resolve_or_provision(
        &self,
        caller: &Principal,
        named: Option<&str>,
    ) -> Result<UserId, AuthError> {
        if caller.role != Role::User
            && let Some(user) = named.filter(|named| *named != "me").and_then(|named| named.parse().ok())
        {
            self.0.credentials.accounts().find_or_provision(&user).await?;
        }
        self.resolve_living(caller, named).await
    }

    /// Checks the bearer token of a request that came from `address`.
    async fn verify(&self, token: &str, address: IpAddr) -> Result<Arc<Verified>, AuthError> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = self.0.clock.now().timestamp();
        let known = self.0.verified.get(&hash).filter(|verified| self.0.verifier.is_current(verified));
        let verified = if let Some(verified) = known {
            verified
        } else {
            let verify = async || {
                let verified = self.0.verifier.verify(token).await;
                verified.map_err(|reason| self.refuse(reason, Some(address)))
            };
            let mut verified = verify().await?;
            if verified.is_unproven {
                self.0.credentials.accounts().prove_root_keys().await?;
                verified = verify().await?;
            }
            let verified = Arc::new(verified);
            // A token that is not valid now is not worth a place in the cache.
            if verified.valid_at(now).is_ok() {
                self.0.verified.insert(hash, Arc::clone(&verified));
            }
            verified
        };
        match verified.valid_at(now) {
            Ok(()) => Ok(verified),
            Err(reason) => Err(self.refuse(reason, Some(address))),
        }
    }

    /// Counts a failed sign-in. `Some(seconds)` to wait once its address has failed too often.
    pub(crate) fn note_failure(&self, reason: &'static str, address: IpAddr) -> Option<u64> {
        metrics::counter!("auth_failures_total", "reason" => reason).increment(1);
        self.0.refused.note(reason, address);
        self.0.failures.record(address, self.0.clock.now())
    }

    /// Counts what costs as much as a failed sign-in, and is none.
    pub(crate) fn note_cost(&self, address: IpAddr) -> Option<u64> {
        self.0.failures.record(address, self.0.clock.now())
    }

    /// Counts a credential that named nobody. A valid signature does not help somebody who does not exist.
    fn refuse_unknown_user(&self, address: IpAddr) -> AuthError {
        self.refuse(Reason::UnknownUser, Some(address))
    }

    /// Refuses a credential, otherwise when `address` has failed too often. A missing credential is no failed one.
    fn refuse(&self, reason: Reason, address: Option<IpAddr>) -> AuthError {
        let noted = if let Some(address) = address.filter(|_| reason != Reason::IssuerAway) {
            self.note_failure(reason.as_str(), address)
        } else {
            metrics::counter!("auth_failures_total", "reason" => reason.as_str()).increment(1);
            None
        };
        match noted {
            _ if reason == Reason::IssuerAway => AuthError::IssuerAway,
            Some(retry_after_s) => AuthError::TooManyFailures { retry_after_s },
            None => AuthError::Unauthorized,
        }
    }
}
