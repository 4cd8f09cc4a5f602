//! The envelope around every request: id, time limit, panics, problem bodies, security headers.
//!
//! Kept thin: one layer for all of it, a service of its own since `axum::middleware` copies the inner one for each
//! request, and nothing allocated that a refusal does not need.

use std::borrow::Cow;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use ledger::IdSource;
use ledger::text::cut;
use tower::{Layer, Service};
use uuid::Uuid;

use crate::http::problem::Problem;

/// A request is answered within this time, or with 503.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a path that an error and a log line repeat.
const SHOWN_BYTES: usize = 256;
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FOR_A_YEAR: HeaderValue = HeaderValue::from_static("max-age=31536000");
const NOTHING_BUT_DATA: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// The request's id: what the client sent in `X-Request-Id` if it is `[A-Za-z0-9._-]{1,64}`, else a new one. It is on
/// every answer and in every error's body.
struct RequestId(HeaderValue);

impl RequestId {
    fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    fn of(headers: &HeaderMap, ids: &IdSource) -> Self {
        match headers.get(X_REQUEST_ID) {
            Some(value) if acceptable(value.as_bytes()) => Self(value.clone()),
            _ => Self(uuid_value(ids.event_id())),
        }
    }
}

fn acceptable(id: &[u8]) -> bool {
    (1..=64).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// The outermost layer: request id, time limit, panics, problem bodies, security headers.
#[derive(Clone)]
pub struct Envelope {
    ids: IdSource,
    timeout: Duration,
    /// Whether clients are told to use https from now on.
    is_https: bool,
}

impl Envelope {
    /// Request ids come from `ids`. Where clients reach the service over https, they are told to stay there.
    pub fn new(ids: IdSource, is_https: bool) -> Self {
        Self { ids, timeout: REQUEST_TIMEOUT, is_https }
    }
}

impl<S> Layer<S> for Envelope {
    type Service = Enveloped<S>;

    fn layer(&self, inner: S) -> Enveloped<S> {
        Enveloped { envelope: self.clone(), inner }
    }
}

/// A service in its envelope.
#[derive(Clone)]
pub struct Enveloped<S> {
    envelope: Envelope,
    inner: S,
}

impl<S> Service<Request> for Enveloped<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Envelope { ids, timeout, is_https } = &self.envelope;
        let is_https = *is_https;
        let id = RequestId::of(request.headers(), ids);
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let answer =
            AssertUnwindSafe(tokio::time::timeout(*timeout, self.inner.call(request))).catch_unwind();
        Box::pin(async move {
            let response = match answer.await {
                Ok(Ok(Ok(response))) => response,
                Ok(Err(_)) => Problem::timed_out().into_response(),
                // The panic hook has logged message and place.
                Err(_) => Problem::fault("panicked").into_response(),
            };
            Ok(finished(response, id, &method, uri.path(), is_https))
        })
    }
}

/// The answer as it goes out: with the problem's body if it is one, the request's id and the security headers.
fn finished(mut response: Response, id: RequestId, method: &Method, path: &str, is_https: bool) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let path = shown(path);
        report(&problem, &id, method, &path);
        *response.body_mut() = Body::from(problem.render(&path, id.as_str()));
    }
    let empty = response.status() == StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id.0);
    if is_https {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, FOR_A_YEAR);
    }
    if !empty {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NOTHING_BUT_DATA);
        headers.entry(header::REFERRER_POLICY).or_insert(HeaderValue::from_static("no-referrer"));
    }
    response
}

/// A UUID as a header's value.
pub(crate) fn uuid_value(id: Uuid) -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let text = id.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).expect("a UUID is hex digits and hyphens")
}

/// The path as it may be shown and logged: no longer than a person reads.
fn shown(path: &str) -> Cow<'_, str> {
    let masked = masked(path);
    if masked.len() <= SHOWN_BYTES { masked } else { Cow::Owned(format!("{}…", cut(&masked, SHOWN_BYTES))) }
}

/// The path without what may be a token. Where an id of a token is due, somebody may have put the token itself: what
/// is no id, and no name of ours, is left out, also where the path is mistyped.
fn masked(path: &str) -> Cow<'_, str> {
    const PREFIX: &str = "/api/token";
    let begins = path.get(..PREFIX.len()).filter(|begin| begin.eq_ignore_ascii_case(PREFIX));
    let Some(begin) = begins else { return Cow::Borrowed(path) };
    let is_ours = |part: &str| matches!(part, "" | "s" | "audit" | "test") || Uuid::try_parse(part).is_ok();
    let rest = &path[PREFIX.len()..];
    if rest.split('/').all(is_ours) {
        return Cow::Borrowed(path);
    }
    let parts: Vec<&str> = rest.split('/').map(|part| if is_ours(part) { part } else { "…" }).collect();
    Cow::Owned(format!("{begin}{}", parts.join("/")))
}

/// The one place where the cause of a failed request is logged. Never the query, headers or body: they may hold
/// secrets.
fn report(problem: &Problem, id: &RequestId, method: &Method, path: &str) {
    let (status, request_id) = (problem.status().as_u16(), id.as_str());
    if let Some(cause) = problem.cause() {
        if problem.status() == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(status, request_id, %method, path, cause, "a request failed by a fault of this service");
        } else {
            tracing::warn!(status, request_id, %method, path, cause, "a request could not be served");
        }
    } else {
        tracing::debug!(status, request_id, %method, path, code = ?problem.code(), "a request was refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_token_in_a_path_is_not_shown() {
        let id = "01a20d73-a6aa-7000-8000-000000000000";
        for path in
            ["/", "/api/usage/stats", "/api/tokens", "/api/tokens/audit", "/api/tokens/test", "/api/tokens/"]
        {
            assert_eq!(shown(path), path);
        }
        for path in [format!("/api/tokens/{id}"), format!("/api/tokens/{id}/audit")] {
            assert_eq!(shown(&path), path);
        }
        for (path, as_shown) in [
            ("/api/tokens/ghp_x", "/api/tokens/…"),
            ("/api/tokens/ghp_x/test", "/api/tokens/…/test"),
            ("/api/tokens//ghp_x", "/api/tokens//…"),
            ("/api/token/ghp_x", "/api/token/…"),
            ("/API/Tokens/ghp_x", "/API/Tokens/…"),
            ("/api/tokens;ghp_x", "/api/token…"),
            ("/api/tokens%2fghp_x", "/api/token…"),
        ] {
            assert_eq!(shown(path), as_shown);
        }
    }
}
