//! Passwords: registering, signing in, setting another one.
//!
//! They are hashed in threads of their own, and whoever guesses is made to wait.

mod change;
mod login;
mod register;
mod reset;

use axum::extract::FromRef;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::parts::SignIn;
use crate::auth::Auth;

pub(super) use login::tried;

/// Tries at a password that an account has in an hour, from all addresses.
pub(crate) const PASSWORDS_AN_HOUR: u32 = 100;

/// The endpoints of those who have signed in.
pub(super) fn router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Auth: FromRef<S>,
    SignIn: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(change::change))
}

/// The endpoints of those who sign in.
pub(super) fn public_router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    SignIn: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(login::login))
        .routes(routes!(register::register))
        .routes(routes!(reset::reset))
}
