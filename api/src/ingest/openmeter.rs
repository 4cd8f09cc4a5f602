//! `POST /api/v1/events`: for clients of OpenMeter's ingest API.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::parse::Profile;
use super::parts::Ingest;
use super::receipt::{ItemStatus, Receipt};
use super::route::{placed, take_in};
use super::schema::AnyEvent;
use crate::auth::{User, needs};
use crate::facts::Writer;
use crate::http::idempotency::{Idempotency, KeyHeader};
use crate::http::problem::{Problem, ProblemBody};

/// Errors listed in one answer.
const MAX_ERRORS: usize = 100;

/// Reports events (OpenMeter)
///
/// CloudEvents with any `data`: the endpoint is `endpoint`, `route` or `path` of it, else `event:<type>`; `units` of it
/// or 1. 400 when an event is wrong; the others are stored all the same, and a retry is safe.
#[utoipa::path(
    post, path = "/api/v1/events", tag = "usage",
    params(KeyHeader),
    request_body(description = "One event or up to 1,000, at most 8 MiB; packed by gzip or zstd or not", content(
        (AnyEvent = "application/cloudevents+json"),
        (Vec<AnyEvent> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 204, description = "All are on disk"),
        (status = 400, description = "An event is wrong", body = ProblemBody),
        (status = 413, description = "More than 1,000 events, or 8 MiB packed or unpacked", body = ProblemBody),
        (status = 415, description = "Another Content-Type or Content-Encoding", body = ProblemBody),
        (status = 429, description = "Figures are behind, nothing was taken in; see `Retry-After`", body = ProblemBody),
        (status = 503, description = "The log cannot be written", body = ProblemBody),
    )
)]
pub(super) async fn openmeter_events(
    caller: User<needs::Ingest>,
    State(ingest): State<Ingest>,
    State(idempotency): State<Idempotency>,
    request: Request,
) -> Result<Response, Problem> {
    take_in(ingest, &idempotency, &caller, request, Profile::OpenMeter, answer).await
}

#[expect(clippy::needless_pass_by_value, reason = "the other answer puts the receipt into its body")]
fn answer(writer: &Writer, receipt: Receipt) -> Response {
    let items = receipt.items();
    if receipt.count(ItemStatus::Rejected) > 0 {
        let errors = items.iter().filter_map(|item| placed(item, items.len()));
        let problem = Problem::validation(errors.take(MAX_ERRORS).collect());
        return problem.with_status(StatusCode::BAD_REQUEST).into_response();
    }
    match receipt.seq() {
        Some(seq) => (writer.at(seq), StatusCode::NO_CONTENT).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}
