//! People sign in: sessions of browsers, and the ways to them.
//!
//! It may touch people, what they sign in with and their sessions (schema `public`), the log (what happened to them),
//! and what `auth` remembers.

mod backoff;
mod begin;
mod browser_tokens;
mod error;
mod factors;
mod github;
mod github_way;
mod guard;
mod hasher;
mod link;
mod me;
mod methods;
mod page_tokens;
mod parts;
mod password_text;
mod passwords;
mod session;
mod sessions;

pub(crate) use backoff::Backoff;
pub use error::SignInError;
pub(crate) use factors::CODES_AN_HOUR;
pub(crate) use github_way::GitHubSignIn;
pub(crate) use hasher::Hasher;
pub(crate) use page_tokens::PageTokens;
pub(crate) use parts::Parts;
pub use parts::SignIn;
pub(crate) use passwords::PASSWORDS_AN_HOUR;

use axum::extract::FromRef;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;

/// The endpoints of those who have signed in.
pub(crate) fn router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Auth: FromRef<S>,
    SignIn: FromRef<S>,
{
    OpenApiRouter::new()
        .merge(factors::router())
        .merge(passwords::router())
        .routes(routes!(session::session))
        .routes(routes!(session::logout))
        .routes(routes!(sessions::list, sessions::end_all))
        .routes(routes!(sessions::end))
        .routes(routes!(me::get, me::change))
        .routes(routes!(browser_tokens::make))
        .routes(routes!(github::link, github::unlink))
}

/// The endpoints of those who sign in: nobody is known yet whose call could be recorded.
pub(crate) fn public_router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Auth: FromRef<S>,
    SignIn: FromRef<S>,
{
    OpenApiRouter::new()
        .merge(passwords::public_router())
        .routes(routes!(methods::methods))
        .routes(routes!(link::link))
        .routes(routes!(github::begin))
        .routes(routes!(github::callback))
}
