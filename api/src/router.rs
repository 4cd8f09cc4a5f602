//! All routes, and what each of them passes through.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::middleware::{Envelope, envelope};
use crate::problem::{Code, Problem};
use crate::routes;
use crate::state::AppState;

/// Every endpoint with its documentation. A new one is merged here; the security test then asks for its row.
pub fn endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(crate::openapi::base())
        .merge(routes::users::router())
        .merge(routes::healthz::router())
}

/// The router as served, and its OpenAPI document.
pub fn router(state: AppState) -> (Router, OpenApi) {
    let (router, document) = endpoints().split_for_parts();
    let ids = state.ids().clone();
    let router = router
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                Code::MethodNotAllowed,
                "This path does not know that method; see the header Allow.",
            )
        })
        .layer(from_fn_with_state(Envelope::new(ids), envelope))
        .with_state(state);
    (router, document)
}
