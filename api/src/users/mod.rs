//! Users: who the host says they are, what is kept of them, and their end.
//!
//! It may touch accounts and data keys (schema `public`) and the log (erasures); it reads all that is held of a user.

mod erase;
mod error;
mod export;
mod export_turns;
mod parts;
mod put;
mod security_log;

pub use error::UsersError;
pub(crate) use export_turns::ExportTurns;
pub(crate) use parts::Parts;
pub use parts::Users;

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
    Users: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(put::put_user))
        .routes(routes!(erase::erase))
        .routes(routes!(export::export))
        .routes(routes!(security_log::security_log))
}
