//! Principals: authenticated callers.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use events::{Actor, ActorKind};
use ledger::UserId;

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
