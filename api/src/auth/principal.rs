//! Principals: authenticated callers.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use credentials::{Scope, Scopes};
use events::{Actor, ActorKind};
use ledger::{KeyId, UserId};
use store::identity::sessions::Method;
use uuid::Uuid;

use super::error::AuthError;
use super::token::Role;
use crate::http::idempotency::{Allowance, KeyOwner};

/// An authenticated caller whose account exists and is not suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user that it is.
    pub user_id: UserId,
    /// Role that says what it may do.
    pub role: Role,
    /// Address that the request came from, as far as `TRUSTED_PROXIES` are believed.
    pub address: IpAddr,
    /// Time at which the credential was issued, or the person was there, in seconds since 1970, if that is known.
    pub issued_at_s: Option<i64>,
    /// What it came with.
    pub credential: Credential,
}

/// What a caller is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A JWT: it does what its role may.
    Token,
    /// A JWT that was made for a page of the host's: it does, of what its role may, what is in these scopes.
    BrowserToken(Scopes),
    /// An API key.
    Key(UsedKey),
    /// The cookie of somebody who has signed in.
    Session(UsedSession),
}

/// A session by which a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedSession {
    /// Its id.
    pub id: Uuid,
    /// How its user signed in.
    pub method: Method,
    /// Whether the second factor is still to be shown.
    pub is_pending: bool,
    /// Whether its user has a second factor.
    pub has_factor: bool,
}

/// An API key by which a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedKey {
    /// Its id.
    pub id: KeyId,
    /// The parts of the role that it may use.
    pub scopes: Scopes,
    /// Units a month that it may use; none is as many as the plan has.
    pub budget: Option<u64>,
}

impl Principal {
    /// The caller, as an event names who acted.
    pub fn actor(&self) -> Actor<'static> {
        let kind = match self.role {
            Role::User => ActorKind::User,
            Role::Service => ActorKind::Service,
            Role::Admin => ActorKind::Admin,
        };
        Actor::new(kind, self.user_id.to_string())
    }

    /// Refuses a caller who is not of these roles, and of these with an API key, which needs the scope; none is a
    /// scope that no key has. A session that waits for the second factor does nothing, and an admin's without one
    /// writes nothing. `needed` are the roles in words.
    pub(super) fn must_be(
        &self,
        roles: &[Role],
        key_roles: &[Role],
        scope: Option<Scope>,
        is_write: bool,
        needed: &'static str,
    ) -> Result<(), AuthError> {
        let (scopes, roles) = match self.credential {
            Credential::BrowserToken(scopes) => (Some(scopes), roles),
            Credential::Key(key) => (Some(key.scopes), key_roles),
            Credential::Session(session) if session.is_pending => return Err(AuthError::FactorDue),
            Credential::Session(session) if self.role == Role::Admin && is_write && !session.has_factor => {
                return Err(AuthError::FactorMissing);
            }
            Credential::Token | Credential::Session(_) => (None, roles),
        };
        let is_scoped = scopes.is_some();
        match scope {
            None if is_scoped => Err(AuthError::NotByKey),
            _ if !roles.contains(&self.role) => Err(AuthError::Role(needed)),
            Some(scope) if scopes.is_some_and(|scopes| !scopes.contains(scope)) => {
                Err(AuthError::Scope(scope))
            }
            _ => Ok(()),
        }
    }

    /// The API key that the caller is known by, if it is one.
    pub fn key(&self) -> Option<UsedKey> {
        match self.credential {
            Credential::Key(key) => Some(key),
            Credential::Token | Credential::BrowserToken(_) | Credential::Session(_) => None,
        }
    }

    /// The session that the caller is known by, if it is one.
    pub fn session(&self) -> Option<UsedSession> {
        match self.credential {
            Credential::Session(session) => Some(session),
            Credential::Token | Credential::BrowserToken(_) | Credential::Key(_) => None,
        }
    }

    /// The API key by which this user's call is made: what a service does for somebody else is no use of its own key.
    pub fn key_of(&self, user: UserId) -> Option<UsedKey> {
        self.key().filter(|_| self.user_id == user)
    }

    /// The caller, as idempotency keys are its own.
    pub fn key_owner(&self) -> KeyOwner {
        let (role, allowance) = match self.role {
            Role::User => ("user", Allowance::USER),
            Role::Service => ("service", Allowance::TRUSTED),
            Role::Admin => ("admin", Allowance::TRUSTED),
        };
        KeyOwner { user: self.user_id, role, allowance }
    }
}

/// Place where authentication leaves the principal for the layer that records calls of our own routes.
#[derive(Clone, Default)]
pub(crate) struct Seen(pub(crate) Arc<OnceLock<Principal>>);
