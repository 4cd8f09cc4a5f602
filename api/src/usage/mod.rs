//! Usage: what a user has used, as figures, series, rows and statements; and where its counters start anew.
//!
//! It may touch the projections to read them, the log (resets), and the limits, which are told of a reset.

mod calls;
mod error;
mod history;
mod parts;
mod reset;
mod statements;
mod stats;

pub use error::UsageError;
pub(crate) use parts::Parts;
pub use parts::Usage;

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
    Usage: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(stats::stats))
        .routes(routes!(history::history))
        .routes(routes!(calls::calls))
        .routes(routes!(statements::statements))
        .routes(routes!(statements::statement))
        .routes(routes!(reset::reset))
}
