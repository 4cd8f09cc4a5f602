//! Metering: a call that asks to be admitted, is recorded, and is completed later.
//!
//! It may touch the limits, users' data keys and the log; of the projections it reads recorded calls.

mod call;
mod check;
mod complete;
mod error;
mod forward_auth;
mod once;
mod original;
mod outcomes;
mod own_calls;
mod parts;
mod recent;
mod record;
mod requests;
pub mod sealer;
mod turns;

pub(crate) use call::count;
pub use error::MeteringError;
pub(crate) use own_calls::{OwnCalls, track};
pub use parts::Metering;
pub(crate) use parts::Parts;
pub(crate) use recent::RecentCalls;
pub(crate) use requests::Requests;
pub(crate) use turns::CallTurns;

use axum::extract::FromRef;
use axum::routing::any;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::http::idempotency::Idempotency;

/// Endpoints of services that ask for a call.
pub(crate) fn check_router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Auth: FromRef<S>,
    Idempotency: FromRef<S>,
    Metering: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(check::check))
}

/// Endpoints of services that say how a call ended.
pub(crate) fn router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Auth: FromRef<S>,
    Idempotency: FromRef<S>,
    Metering: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(complete::outcome))
}

/// Endpoints that proxies ask, with any method.
pub(crate) fn proxies_router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Auth: FromRef<S>,
    Metering: FromRef<S>,
{
    use forward_auth::{ENVOY_PATH, PATH, envoy, forward_auth};

    #[derive(utoipa::OpenApi)]
    #[openapi(paths(forward_auth::forward_auth, forward_auth::envoy))]
    struct Document;
    OpenApiRouter::with_openapi(<Document as utoipa::OpenApi>::openapi())
        .route(PATH, any(forward_auth))
        .route(ENVOY_PATH, any(envoy))
        .route(&format!("{ENVOY_PATH}/"), any(envoy))
        .route(&format!("{ENVOY_PATH}/{{*path}}"), any(envoy))
}
