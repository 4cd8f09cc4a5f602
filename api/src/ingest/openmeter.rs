//! `POST /api/v1/events`: for clients of OpenMeter's ingest API.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::route::{placed, take_in};
use crate::auth::User;
use crate::facts::position::LedgerSeq;
use crate::http::problem::{Problem, ProblemBody};
use crate::ingest::{Outcome, Profile, Receipt};
use crate::state::AppState;

/// Errors listed in one answer.
const MAX_ERRORS: usize = 100;

/// Reports events (OpenMeter)
///
/// CloudEvents with any `data`: the endpoint is `endpoint`, `route` or `path` of it, else `event:<type>`; `units` of it
/// or 1. 400 when an event is wrong; the others are stored all the same, and a retry is safe.
#[utoipa::path(
    post, path = "/api/v1/events", tag = "usage",
    request_body(content = serde_json::Value, description = "One event or an array", content_type = "application/cloudevents-batch+json"),
    responses(
        (status = 204, description = "All are on disk"),
        (status = 400, description = "An event is wrong", body = ProblemBody),
        (status = 413, description = "More than 1,000 events or 8 MiB", body = ProblemBody),
        (status = 415, description = "Another Content-Type", body = ProblemBody),
        (status = 503, description = "The log cannot be written", body = ProblemBody),
    )
)]
async fn openmeter_events(
    caller: User,
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    take_in(&state, &caller, request, Profile::OpenMeter, answer).await
}

#[expect(clippy::needless_pass_by_value, reason = "the other answer puts the receipt into its body")]
fn answer(state: &AppState, receipt: Receipt) -> Response {
    let items = receipt.items();
    if receipt.count(Outcome::Rejected) > 0 {
        let errors = items.iter().filter_map(|item| placed(item, items.len()));
        let problem = Problem::validation(errors.take(MAX_ERRORS).collect());
        return problem.with_status(StatusCode::BAD_REQUEST).into_response();
    }
    match receipt.seq() {
        Some(seq) => (LedgerSeq::at(state, seq), StatusCode::NO_CONTENT).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

/// This file's endpoints.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(openmeter_events))
}
