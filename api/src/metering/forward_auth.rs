//! `ANY /api/forward-auth` (Traefik's `ForwardAuth`, nginx's `auth_request`) and `ANY /api/forward-auth/envoy/{*path}`
//! (Envoy's `ext_authz`): a proxy asks before it passes a request on.
//!
//! Nothing here touches PostgreSQL for a user who is known, and a call costs one event. What the client sends is
//! believed only where the proxy must have written it.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method as HttpMethod, StatusCode, header};
use axum::response::{IntoResponse, Response};
use events::Personal;
use ledger::Method;
use ledger::ids::event_id_at;

use super::Metering;
use super::call::{Metered, MeteredCall, Particulars, Recorded};
use super::original::{Original, original, request_id};
use crate::auth::{Auth, Principal, User, X_API_KEY, needs};
use crate::config::Preflight;
use crate::http::client::user_agent;
use crate::http::envelope::uuid_value;
use crate::http::problem::{Code, FieldError, Problem, ProblemBody};

pub(super) const PATH: &str = "/api/forward-auth";
pub(super) const ENVOY_PATH: &str = "/api/forward-auth/envoy";
const X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");
const X_USAGE_CALL_ID: HeaderName = HeaderName::from_static("x-usage-call-id");

/// Asks whether a request may pass, and records it
///
/// The user comes from the bearer token or the API key, path and method from `X-Forwarded-Uri` and
/// `X-Forwarded-Method`, or from `X-Original-URI` (or `X-Original-URL`) and `X-Original-Method`. An admitted call is on
/// disk before the answer. Any method will do. A trusted proxy that names the request (`FORWARD_AUTH_ID_HEADER`) and
/// asks again within a minute, ten times at most, hears the same answer, and the call counts once.
#[utoipa::path(
    get, path = "/api/forward-auth", tag = "proxies",
    params(
        ("deny_status" = Option<u16>, Query, description = "403: what to answer instead of 400 and 429, for proxies that know 401 and 403 only"),
        ("X-Forwarded-Uri" = Option<String>, Header, description = "Path and query of the request (Traefik)"),
        ("X-Forwarded-Method" = Option<String>, Header, description = "Its method"),
        ("X-Original-URI" = Option<String>, Header, description = "Path and query of the request (nginx)"),
        ("X-Original-URL" = Option<String>, Header, description = "Absolute URL of the request (ingress-nginx)"),
        ("X-Original-Method" = Option<String>, Header, description = "Its method"),
    ),
    responses(
        (status = 204, description = "It may pass, and is recorded", headers(
            ("X-User-Id" = String, description = "The user's UUID"),
            ("X-Usage-Call-Id" = String, description = "For the call's outcome"),
            ("RateLimit" = String), ("RateLimit-Policy" = String), ("X-Usage-Plan" = String),
            ("X-Usage-Limit" = u64), ("X-Usage-Used" = u64), ("X-Usage-Remaining" = u64), ("X-Usage-Reset" = u64),
        )),
        (status = 400, description = "The proxy's headers or the path cannot be used", body = ProblemBody),
        (status = 401, description = "No valid token", body = ProblemBody),
        (status = 429, description = "A limit of the plan is reached", body = ProblemBody),
        (status = 503, description = "It cannot be decided or recorded now", body = ProblemBody),
    )
)]
pub(super) async fn forward_auth(
    State(auth): State<Auth>,
    State(metering): State<Metering>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let deny = match deny_status(parts.uri.query().unwrap_or_default()) {
        Ok(deny) => deny,
        Err(problem) => return problem.into_response(),
    };
    let (admit, auth, metering) = (StatusCode::NO_CONTENT, &auth, &metering);
    Question { auth, metering, admit, deny }.answer(parts, |parts| original(&parts.headers)).await
}

/// Asks whether a request may pass, and records it (Envoy)
///
/// The path behind this one, its query and the method are the request's own (`path_prefix`). Any method will do.
#[utoipa::path(
    get, path = "/api/forward-auth/envoy/{path}", tag = "proxies",
    params(("path" = String, Path, description = "Path of the request")),
    responses(
        (status = 200, description = "It may pass, and is recorded"),
        (status = 400, description = "The path cannot be used", body = ProblemBody),
        (status = 401, description = "No valid token", body = ProblemBody),
        (status = 429, description = "A limit of the plan is reached", body = ProblemBody),
        (status = 503, description = "It cannot be decided or recorded now", body = ProblemBody),
    )
)]
pub(super) async fn envoy(
    State(auth): State<Auth>,
    State(metering): State<Metering>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    // Envoy takes 200 for a yes, and any other answer for its own to the client.
    let (admit, deny) = (StatusCode::OK, StatusCode::TOO_MANY_REQUESTS);
    Question { auth: &auth, metering: &metering, admit, deny }.answer(parts, |parts| Ok(behind(parts))).await
}

/// The request that Envoy asks about: all of it that stands behind our path. The query is the request's, not ours:
/// nothing in it is an instruction.
fn behind(parts: &Parts) -> Original<'_> {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let uri = target.strip_prefix(ENVOY_PATH).filter(|uri| uri.starts_with('/')).unwrap_or("/");
    Original { uri: uri.into(), method: parts.method.as_str() }
}

/// The status of a refusal.
fn deny_status(query: &str) -> Result<StatusCode, Problem> {
    let mut status = StatusCode::TOO_MANY_REQUESTS;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        status = match pair.split_once('=') {
            Some(("deny_status", "403")) => StatusCode::FORBIDDEN,
            Some(("deny_status", "429")) => StatusCode::TOO_MANY_REQUESTS,
            Some(("deny_status", _)) => {
                return Err(FieldError::parameter("deny_status", "invalid", "it must be 403 or 429").into());
            }
            // Proxies that append the request's query must not be able to fail it.
            _ => status,
        };
    }
    Ok(status)
}

/// For a proxy that knows 401 and 403 only: what is wrong with the request, or too much of it, is a denial. A 503 is
/// not: the proxy's own error is the truth then.
fn as_denied(problem: Problem, deny: StatusCode) -> Problem {
    match problem.status() {
        StatusCode::BAD_REQUEST | StatusCode::TOO_MANY_REQUESTS if deny == StatusCode::FORBIDDEN => {
            problem.with_status(deny)
        }
        _ => problem,
    }
}

/// A browser sends it without credentials and without a body, and it calls nothing. Whatever has either is a call that
/// pretends to be one.
fn is_preflight(original: &Original<'_>, headers: &HeaderMap) -> bool {
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0");
    original.method == HttpMethod::OPTIONS.as_str()
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        && !headers.contains_key(header::AUTHORIZATION)
        && !headers.contains_key(X_API_KEY)
        && !has_body
}

/// How the request that a proxy asks about is read from its question.
type Reading = for<'a> fn(&'a Parts) -> Result<Original<'a>, Problem>;

/// A proxy's question, and what answers it.
struct Question<'a> {
    auth: &'a Auth,
    metering: &'a Metering,
    /// Status of an admission.
    admit: StatusCode,
    /// Status of a refusal.
    deny: StatusCode,
}

impl Question<'_> {
    async fn answer(self, parts: Parts, original: Reading) -> Response {
        let passes = self.metering.0.forward_auth.preflight == Preflight::Pass;
        if passes && original(&parts).is_ok_and(|original| is_preflight(&original, &parts.headers)) {
            return self.admit.into_response();
        }
        match self.decide(parts, original).await {
            Ok(response) => response,
            Err(problem) => as_denied(problem, self.deny).into_response(),
        }
    }

    async fn decide(&self, parts: Parts, original: Reading) -> Result<Response, Problem> {
        let principal = User::<needs::Check>::of(self.auth, &parts).await?;
        let original = original(&parts)?;
        let id = self.request_id(&parts)?;
        let metering = &*self.metering.0;
        let endpoint = metering
            .rules
            .endpoint(&original.uri)
            .map_err(|error| Problem::malformed(Code::MalformedUri, format!("{error}.")))?;
        let method = Method::new(original.method)
            .map_err(|error| Problem::malformed(Code::MalformedHeader, error.to_string()))?;
        let now = metering.writer.now();
        let call = MeteredCall::new(&metering.rules, principal.user_id, &endpoint, Some(method), None, now)
            .by(&principal);
        let personal = Personal::of_client(client_address(&parts, &principal), user_agent(&parts.headers));
        let metered = if let Some(id) = id {
            self.metering.record_once(call, &original, id, personal).await?
        } else {
            let particulars = Particulars { personal: personal.into_owned(), actor: None };
            // The request goes before the wait, where it was read: there may be many who wait.
            drop(parts);
            self.metering.record(&call, event_id_at(now), particulars).await?
        };
        match metered {
            Metered::Recorded(recorded) => Ok(self.admitted(&principal, &recorded)),
            Metered::Refused(refusal) => Err(refusal.into_problem(self.deny)),
        }
    }

    /// The id by which a trusted proxy knows the request. Anybody else could choose one to have calls for nothing.
    fn request_id<'a>(&self, parts: &'a Parts) -> Result<Option<&'a [u8]>, Problem> {
        let metering = &self.metering.0;
        match &metering.forward_auth.id_header {
            Some(name) if metering.proxies.contain_peer(parts) => request_id(&parts.headers, name),
            _ => Ok(None),
        }
    }

    fn admitted(&self, principal: &Principal, recorded: &Recorded) -> Response {
        let mut response = self.admit.into_response();
        let headers = response.headers_mut();
        headers.reserve(16);
        recorded.append_headers(headers);
        headers.insert(X_USER_ID, uuid_value(principal.user_id.get()));
        headers.insert(X_USAGE_CALL_ID, uuid_value(recorded.call_id));
        self.metering.0.writer.at(recorded.seq).insert_into(headers);
        response
    }
}

/// The client's address, when a trusted proxy says it: the peer is only the proxy.
fn client_address(parts: &Parts, principal: &Principal) -> Option<IpAddr> {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip().to_canonical();
    (principal.address != peer).then_some(principal.address)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn what_has_credentials_or_a_body_is_no_preflight() {
        let of = |further: &[(HeaderName, &'static str)]| {
            let pairs =
                [(header::ORIGIN, "https://a.example"), (header::ACCESS_CONTROL_REQUEST_METHOD, "POST")];
            let all = pairs.into_iter().chain(further.iter().cloned());
            let headers = all.map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
            is_preflight(&Original { uri: "/".into(), method: "OPTIONS" }, &headers)
        };
        assert!(of(&[]) && of(&[(header::CONTENT_LENGTH, "0")]));
        for (name, value) in [
            (header::AUTHORIZATION, ""),
            (header::AUTHORIZATION, "Bearer x"),
            (X_API_KEY, "x"),
            (header::TRANSFER_ENCODING, "chunked"),
            (header::TRANSFER_ENCODING, "identity"),
            (header::CONTENT_LENGTH, "1"),
            (header::CONTENT_LENGTH, "00"),
            (header::CONTENT_LENGTH, "x"),
        ] {
            assert!(!of(&[(name.clone(), value)]), "{name}: {value}");
        }
    }
}
