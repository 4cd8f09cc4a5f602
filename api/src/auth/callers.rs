//! Extractors by which a handler says which callers it serves.

use std::ops::Deref;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;

use super::Auth;
use super::error::AuthError;
use super::principal::Principal;
use super::token::Role;
use crate::http::problem::Problem;

/// Any authenticated principal: put it first in a handler that everybody with an account may call. What it may see is
/// decided by [`Auth::resolve`].
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

impl<S> FromRequestParts<S> for User
where
    S: Send + Sync,
    Auth: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(Auth::from_ref(state).authenticate(parts).await?))
    }
}

impl<S> FromRequestParts<S> for ServiceOrAdmin
where
    S: Send + Sync,
    Auth: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let principal = Auth::from_ref(state).authenticate(parts).await?;
        match principal.role {
            Role::Service | Role::Admin => Ok(Self(principal)),
            Role::User => Err(AuthError::Role("service or admin").into()),
        }
    }
}

impl<S> FromRequestParts<S> for UserOrAdmin
where
    S: Send + Sync,
    Auth: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let principal = Auth::from_ref(state).authenticate(parts).await?;
        match principal.role {
            Role::User | Role::Admin => Ok(Self(principal)),
            Role::Service => Err(AuthError::Role("user or admin").into()),
        }
    }
}

impl<S> FromRequestParts<S> for UserOnly
where
    S: Send + Sync,
    Auth: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let principal = Auth::from_ref(state).authenticate(parts).await?;
        match principal.role {
            Role::User => Ok(Self(principal)),
            Role::Service | Role::Admin => Err(AuthError::Role("user").into()),
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
