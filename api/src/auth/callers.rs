//! Extractors by which a handler says which callers it serves.

use std::ops::Deref;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;

use super::Auth;
use super::error::AuthError;
use super::principal::Principal;
use super::token::Role;
use crate::http::problem::Problem;

/// Declares an extractor for each set of roles: a principal of another one is refused with 403, which names the set.
macro_rules! callers {
    ($($(#[$doc:meta])* $extractor:ident: $($role:ident)|+, $needed:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $extractor(pub Principal);

        impl<S> FromRequestParts<S> for $extractor
        where
            S: Send + Sync,
            Auth: FromRef<S>,
        {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
                let principal = Auth::from_ref(state).authenticate(parts).await?;
                if matches!(principal.role, $(Role::$role)|+) {
                    Ok(Self(principal))
                } else {
                    Err(AuthError::Role($needed).into())
                }
            }
        }

        impl Deref for $extractor {
            type Target = Principal;

            fn deref(&self) -> &Principal {
                &self.0
            }
        }
    )+};
}

callers! {
    /// Any authenticated principal: put it first in a handler that everybody with an account may call. What it may see
    /// is decided by [`Auth::resolve`].
    User: User | Service | Admin, "user, service or admin";

    /// A principal of role service or admin; 403 for others.
    ServiceOrAdmin: Service | Admin, "service or admin";

    /// A principal of role user or admin; 403 for services, which have no business with what users keep here.
    UserOrAdmin: User | Admin, "user or admin";

    /// A principal of role user; 403 for others, who may not use a user's token.
    UserOnly: User, "user";
}
