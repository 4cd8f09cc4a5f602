use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use ledger::UserId;
use store::users::AccountStatus;

use super::Role;
use crate::http::client::client_address;
use crate::http::problem::{Code, Problem};
use crate::state::AppState;

/// An authenticated caller whose account exists and is not suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Who it is.
    pub user_id: UserId,
    /// What it may do.
    pub role: Role,
    /// Where the request came from, as far as `TRUSTED_PROXIES` are believed.
    pub address: IpAddr,
    /// When the credential was issued, in seconds since 1970, if it says so.
    pub issued_at_s: Option<i64>,
}

/// Any authenticated principal: put it first in a handler that everybody with an account may call. What it may see is
/// decided by [`crate::auth::accounts::Users::resolve`].
#[derive(Clone, Copy, Debug)]
pub struct User(pub Principal);

/// A principal of role service or admin; 403 for others.
#[derive(Clone, Copy, Debug)]
pub struct ServiceOrAdmin(pub Principal);

/// A principal of role user or admin; 403 for services, which have no business with what users keep here.
#[derive(Clone, Copy, Debug)]
pub struct UserOrAdmin(pub Principal);

/// A principal of role user; 403 for others, who may not use a user's token.
#[derive(Clone, Copy, Debug)]
pub struct UserOnly(pub Principal);

/// Where authentication leaves the principal for the layer that records calls of our own routes.
#[derive(Clone, Default)]
pub(crate) struct Seen(pub(crate) Arc<OnceLock<Principal>>);

impl FromRequestParts<AppState> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        authenticate(parts, state).await.map(Self)
    }
}

impl FromRequestParts<AppState> for ServiceOrAdmin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let principal = authenticate(parts, state).await?;
        match principal.role {
            Role::Service | Role::Admin => Ok(Self(principal)),
            Role::User => Err(Problem::forbidden("This needs the role service or admin.")),
        }
    }
}

impl FromRequestParts<AppState> for UserOrAdmin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let principal = authenticate(parts, state).await?;
        match principal.role {
            Role::User | Role::Admin => Ok(Self(principal)),
            Role::Service => Err(Problem::forbidden("This needs the role user or admin.")),
        }
    }
}

impl FromRequestParts<AppState> for UserOnly {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let principal = authenticate(parts, state).await?;
        match principal.role {
            Role::User => Ok(Self(principal)),
            Role::Service | Role::Admin => Err(Problem::forbidden("This needs the role user.")),
        }
    }
}

macro_rules! deref_to_principal {
    ($($extractor:ident),+) => {$(
        impl Deref for $extractor {
            type Target = Principal;

            fn deref(&self) -> &Principal {
                &self.0
            }
        }
    )+};
}
deref_to_principal!(User, UserOrAdmin, UserOnly, ServiceOrAdmin);

/// Names the caller of a request, or refuses it with 401 (429 after too many failures), or 403 when suspended. The
/// account is looked up on every request (in a cache that a change empties), so that a suspension holds at once.
pub async fn authenticate(parts: &Parts, state: &AppState) -> Result<Principal, Problem> {
    let address = client_address(parts, state.proxies());
    let verified = state.auth().verify(&parts.headers, address)?;
    let account = match state.users().cached(&verified.subject) {
        Some(account) => account,
        None => match state.users().find_or_provision(&verified.subject).await? {
            Some(account) => account,
            None => return Err(state.auth().refuse_unknown_user(address)),
        },
    };
    if account.status == AccountStatus::Erased {
        return Err(state.auth().refuse_unknown_user(address));
    }
    let principal = Principal {
        user_id: account.user_id,
        role: verified.role,
        address,
        issued_at_s: verified.issued_at_s,
    };
    if account.status == AccountStatus::Suspended {
        return Err(Problem::new(
            axum::http::StatusCode::FORBIDDEN,
            Code::AccountSuspended,
            "This account is suspended.",
        ));
    }
    if let Some(seen) = parts.extensions.get::<Seen>() {
        // A handler authenticates once; should it do so twice, the first result stands.
        let _ = seen.0.set(principal);
    }
    Ok(principal)
}
