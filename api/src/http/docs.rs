//! `GET /docs` and `GET /openapi.json`: the reference, from the handlers themselves.

use axum::Router;
use axum::http::{HeaderValue, header};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

/// Everything from here, no inline scripts; the page's icons are data: URLs, and it sets styles by attribute.
const CSP: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
);

/// The pages and the document.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(document: OpenApi) -> Router<S> {
    // The validator's badge is an image of another host, which would learn of every visit.
    let config = Config::new(["/openapi.json"]).validator_url("none").try_it_out_enabled(true);
    let pages = SwaggerUi::new("/docs").url("/openapi.json", document).config(config);
    Router::from(pages).layer(SetResponseHeaderLayer::if_not_present(header::CONTENT_SECURITY_POLICY, CSP))
}
