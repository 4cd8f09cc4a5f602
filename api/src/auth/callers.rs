//! Extractors by which a handler says which callers it serves, and which scope an API key needs for it.

use std::marker::PhantomData;
use std::ops::Deref;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use credentials::Scope;

use super::Auth;
use super::error::AuthError;
use super::principal::{Principal, UsedSession};
use super::token::Role;
use crate::http::problem::Problem;

/// Scope that an API key needs: the parameter of each extractor. A token without one of these does what its role may.
pub trait Needs: 'static {
    /// The scope; none: no API key will do.
    const SCOPE: Option<Scope>;

    /// Whether a session will do. What programs report and ask is not for browsers, and a proxy that asks sends its
    /// client's cookies along, which are not ours to read.
    const TAKES_SESSIONS: bool = !matches!(Self::SCOPE, Some(Scope::Ingest | Scope::Check));
}

/// Scopes that API keys need, as types.
pub mod needs {
    use credentials::Scope;

    use super::Needs;

    macro_rules! needs {
        ($($(#[$doc:meta])* $name:ident: $scope:expr;)+) => {$(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}

            impl Needs for $name {
                const SCOPE: Option<Scope> = $scope;
            }
        )+};
    }

    needs! {
        /// [`Scope::Ingest`].
        Ingest: Some(Scope::Ingest);
        /// [`Scope::Check`].
        Check: Some(Scope::Check);
        /// [`Scope::Read`].
        Read: Some(Scope::Read);
        /// [`Scope::Tokens`].
        Tokens: Some(Scope::Tokens);
        /// [`Scope::Plans`].
        Plans: Some(Scope::Plans);
        /// [`Scope::Users`].
        Users: Some(Scope::Users);
        /// [`Scope::Erase`].
        Erase: Some(Scope::Erase);
        /// Nothing that an API key could have.
        NoKey: None;
    }
}

/// Declares an extractor for each set of roles, those of tokens and those of API keys: a principal of another one is
/// refused with 403, which names the set.
macro_rules! callers {
    ($($(#[$doc:meta])* $extractor:ident: $($role:ident)|+; keys $($key_role:ident)|+; $needed:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $extractor<N>(Principal, PhantomData<fn() -> N>);

        impl<N: Needs> $extractor<N> {
            /// The caller of a request, or why it is refused.
            pub async fn of(auth: &Auth, parts: &Parts) -> Result<Self, AuthError> {
                let principal = auth.authenticate(parts, N::TAKES_SESSIONS).await?;
                let is_write = !parts.method.is_safe();
                principal.must_be(&[$(Role::$role),+], &[$(Role::$key_role),+], N::SCOPE, is_write, $needed)?;
                Ok(Self(principal, PhantomData))
            }
        }

        impl<S, N: Needs> FromRequestParts<S> for $extractor<N>
        where
            S: Send + Sync,
            Auth: FromRef<S>,
        {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
                Ok(Self::of(&Auth::from_ref(state), parts).await?)
            }
        }

        impl<N> Deref for $extractor<N> {
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
    User: User | Service | Admin; keys User | Service; "user, service or admin";

    /// A principal of role service or admin; 403 for others.
    ServiceOrAdmin: Service | Admin; keys Service; "service or admin";

    /// A principal of role user or admin; 403 for services, which have no business with what users keep here.
    UserOrAdmin: User | Admin; keys User; "user or admin";

    /// A principal of role user; 403 for others, who may not use a user's token.
    UserOnly: User; keys User; "user";

    /// Whoever may end users: a user itself, an admin, and a service by a key that was made for it.
    Eraser: User | Admin; keys Service; "user or admin";
}

/// Declares an extractor of sessions, pending ones too or not.
macro_rules! sessions {
    ($($(#[$doc:meta])* $extractor:ident: pending $pending:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $extractor {
            caller: Principal,
            /// The session.
            pub session: UsedSession,
        }

        impl<S> FromRequestParts<S> for $extractor
        where
            S: Send + Sync,
            Auth: FromRef<S>,
        {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
                let caller = Auth::from_ref(state).authenticate(parts, true).await?;
                let session = caller.session().ok_or(AuthError::NoSession)?;
                if session.is_pending && !$pending {
                    return Err(AuthError::FactorDue.into());
                }
                Ok(Self { caller, session })
            }
        }

        impl Deref for $extractor {
            type Target = Principal;

            fn deref(&self) -> &Principal {
                &self.caller
            }
        }
    )+};
}

sessions! {
    /// Somebody who has signed in by a browser, with the second factor if there is one; 403 for other credentials.
    SignedIn: pending false;

    /// The same, also while the second factor is still to be shown.
    SigningIn: pending true;
}
