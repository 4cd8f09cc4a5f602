//! Pages for people: signing in, and one's own account. They are files in the program, and ask the api as any client
//! does.
//!
//! It may touch nothing: what a page shows, it asks for by the browser's session.

use std::sync::OnceLock;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::http::extract::Path;
use crate::http::problem::Problem;

/// Scripts, styles and requests of this site alone; nothing that stands in a page itself is run.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// A file of the program.
struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
    /// Made of the content when somebody asks first.
    tag: OnceLock<String>,
}

/// Declares files by their names.
macro_rules! assets {
    ($($kind:ident $name:literal)+) => {
        [$(Asset { name: $name, kind: $kind, content: include_str!(concat!("assets/", $name)), tag: OnceLock::new() }),+]
    };
}

static PAGES: [Asset; 2] = assets! { HTML "sign-in.html" HTML "account.html" };
static FILES: [Asset; 5] =
    assets! { STYLE "page.css" SCRIPT "api.js" SCRIPT "next.js" SCRIPT "sign-in.js" SCRIPT "account.js" };

/// The pages, and their files.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let page = |asset: &'static Asset| get(async move |headers: HeaderMap| asset.answer(&headers));
    let [sign_in, account] = &PAGES;
    Router::new()
        .route("/sign-in", page(sign_in))
        .route("/account", page(account))
        .route("/assets/{file}", get(file))
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match FILES.iter().find(|asset| asset.name == name) {
        Some(asset) => asset.answer(&headers),
        None => Problem::not_found().into_response(),
    }
}

impl Asset {
    /// The file, or 304 to who has it. It is asked for anew each time: the next release has another.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let make = || format!("\"{}\"", URL_SAFE_NO_PAD.encode(Sha256::digest(self.content)));
        let tag = self.tag.get_or_init(make);
        let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut tags =
            known.flat_map(|value| value.split(',')).map(|its| its.trim().trim_start_matches("W/"));
        let is_known = tags.any(|its| its == tag);
        let common: [(HeaderName, HeaderValue); 3] = [
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::ETAG, HeaderValue::from_str(tag).expect("letters, digits, hyphens and underscores")),
        ];
        if is_known {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        (common, [(header::CONTENT_TYPE, HeaderValue::from_static(self.kind))], self.content).into_response()
    }
}
