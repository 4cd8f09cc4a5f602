//! Operations: whether the service lives, is ready, and how it is doing.
//!
//! It may look at all that the service leans on (log, database, projector, limits), and changes none of it.

mod health;
mod healthz;
pub mod metrics;
mod readyz;

pub use health::Health;

use axum::extract::FromRef;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The endpoints of this capability, open to all.
pub(crate) fn router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Health: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(healthz::healthz)).routes(routes!(readyz::readyz))
}
