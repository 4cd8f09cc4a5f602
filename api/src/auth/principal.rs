//! Principals: authenticated callers.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use credentials::{Scope, Scopes};
use events::{Actor, ActorKind};
use ledger::{KeyId, UserId};

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
    /// Time at which the credential was issued, in seconds since 1970, if it says so.
    pub issued_at_s: Option<i64>,
    /// The API key that it came with, if it did.
    pub key: Option<UsedKey>,
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
    /// scope that no key has. `needed` are the roles in words.
    pub(super) fn must_be(
        &self,
        roles: &[Role],
        key_roles: &[Role],
        scope: Option<Scope>,
        needed: &'static str,
    ) -> Result<(), AuthError> {
        let Some(key) = &self.key else {
            return if roles.contains(&self.role) { Ok(()) } else { Err(AuthError::Role(needed)) };
        };
        match scope {
            None => Err(AuthError::NotByKey),
            Some(_) if !key_roles.contains(&self.role) => Err(AuthError::Role(needed)),
            Some(scope) if !key.scopes.contains(scope) => Err(AuthError::Scope(scope)),
            Some(_) => Ok(()),
        }
    }

    /// The API key by which this user's call is made: what a service does for somebody else is no use of its own key.
    pub fn key_of(&self, user: UserId) -> Option<UsedKey> {
        self.key.filter(|_| self.user_id == user)
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
