//! All routes, and what each of them passes through.

use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::from_fn_with_state;
use ledger::IdSource;
use tower_http::cors::{AllowOrigin, CorsLayer};
use url::Url;
use utoipa::openapi::{OpenApi, Server};
use utoipa_axum::router::OpenApiRouter;

use crate::config::ApiConfig;
use crate::http::envelope::Envelope;
use crate::http::problem::{Code, Problem};
use crate::http::site::Site;
use crate::http::{docs, openapi};
use crate::metering::{OwnCalls, track};
use crate::state::AppState;
use crate::{accounts, auth, ingest, metering, operations, plans, tokens, usage, users, web};

/// Our own endpoints: their authenticated calls are recorded, uncounted.
fn recorded() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(users::router())
        .merge(accounts::router())
        .merge(accounts::sign_in::router())
        .merge(plans::router())
        .merge(usage::router())
        .merge(metering::router())
        .merge(tokens::router())
}

/// Endpoints whose calls are not recorded as calls: what is open to all, and ingest and check, which record others.
fn unrecorded() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(plans::public_router())
        .merge(accounts::sign_in::public_router())
        .merge(ingest::router())
        .merge(metering::check_router())
        .merge(operations::router())
}

/// Endpoints that proxies ask, never browsers: no CORS, nothing but the envelope on their way.
fn for_proxies() -> OpenApiRouter<AppState> {
    metering::proxies_router()
}

/// The OpenAPI document of all endpoints.
pub fn document() -> OpenApi {
    let all = OpenApiRouter::with_openapi(openapi::base());
    let mut document = all.merge(recorded()).merge(unrecorded()).merge(for_proxies()).into_openapi();
    openapi::complete(&mut document, auth::sentence);
    document
}

/// The document as served: it names the address that clients use, where that is known.
fn served_document(public_url: Option<&Url>) -> OpenApi {
    let mut document = document();
    document.servers = public_url.map(|url| vec![Server::new(url.as_str().trim_end_matches('/'))]);
    document
}

/// The router as served.
pub(crate) fn router(
    state: AppState,
    own_calls: OwnCalls,
    ids: IdSource,
    site: &Site,
    config: &ApiConfig,
) -> Router {
    let recorded = Router::from(recorded()).route_layer(from_fn_with_state(own_calls, track));
    let browsers = recorded
        .merge(Router::from(unrecorded()))
        .merge(docs::router(served_document(site.public_url())))
        .merge(web::router())
        .method_not_allowed_fallback(async || method_not_allowed());
    let browsers = match cors(&config.cors_allowed_origins) {
        Some(cors) => browsers.layer(cors),
        None => browsers,
    };
    browsers
        .merge(Router::from(for_proxies()).method_not_allowed_fallback(async || method_not_allowed()))
        .fallback(async || Problem::not_found())
        .layer(Envelope::new(ids, site.is_https()))
        .with_state(state)
}

fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Code::MethodNotAllowed,
        "This path does not know that method; see the header Allow.",
    )
}

/// Browsers of these origins may call; none may by default. Credentials are bearer tokens, never cookies.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    const EXPOSED: [&str; 14] = [
        "ledger-seq",
        "x-request-id",
        "idempotency-replayed",
        "retry-after",
        "ratelimit",
        "ratelimit-policy",
        "x-usage-plan",
        "x-usage-limit",
        "x-usage-used",
        "x-usage-remaining",
        "x-usage-reset",
        "x-usage-warning",
        "x-usage-would-block",
        "x-should-retry",
    ];
    if origins.is_empty() {
        return None;
    }
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    let allowed_headers = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        header::ACCEPT,
        crate::http::idempotency::IDEMPOTENCY_KEY,
        crate::facts::LEDGER_MIN_SEQ,
        header::HeaderName::from_static("x-request-id"),
    ];
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers(allowed_headers)
            .expose_headers(EXPOSED.map(header::HeaderName::from_static))
            .max_age(Duration::from_hours(1)),
    )
}
