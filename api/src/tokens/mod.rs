//! Users' tokens of third parties: stored sealed, shown masked, used on the user's behalf, never given back.
//!
//! It may touch users' data keys, the log, and the providers that a token is tested with.

mod audit;
mod body;
mod create;
mod delete;
mod error;
mod parts;
mod read;
mod request;
mod test;
mod test_answer;

pub use error::TokensError;
pub(crate) use parts::Parts;
pub use parts::Tokens;

use axum::extract::FromRef;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::facts::Projections;
use crate::http::idempotency::Idempotency;

/// The endpoints of this capability.
pub(crate) fn router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Auth: FromRef<S>,
    Idempotency: FromRef<S>,
    Projections: FromRef<S>,
    Tokens: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(create::store))
        .routes(routes!(read::list))
        .routes(routes!(read::get))
        .routes(routes!(delete::delete))
        .routes(routes!(test::test_given))
        .routes(routes!(test::test_stored))
        .routes(routes!(audit::audit))
        .routes(routes!(audit::token_audit))
}
