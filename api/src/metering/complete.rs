//! `POST /api/usage/calls/{call_id}/outcome`: how a call ended that was recorded before its end.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use events::{Body, CallCompleted, Event};
use ledger::StatusCode;
use nats::PublishError;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use store::outcomes::RecordedCall;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::auth::ServiceOrAdmin;
use crate::facts::position::LedgerSeq;
use crate::facts::settled::settled_seq;
use crate::facts::writer::{PROJECTED_WITHIN, TURN_WITHIN, publish};
use crate::http::extract::{Json, Path};
use crate::http::idempotency::{Attempt, Keyed};
use crate::http::problem::{FieldError, Problem, ProblemBody};
use crate::state::AppState;

/// How long after its beginning a call may be completed.
const MAX_AGE: TimeDelta = TimeDelta::hours(1);
/// How long a call that has just been recorded is waited for.
const LOOK_UP_WAIT: Duration = Duration::from_secs(5);
/// Calls completed lately, whose completion may not be projected yet.
const REMEMBERED: usize = 50_000;
const LOCKS: usize = 64;

/// How the call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OutcomeRequest {
    /// 100 to 599. A call that ended with a 5xx does not count.
    #[schema(value_type = u16, minimum = 100, maximum = 599)]
    status_code: StatusCode,
    /// How long it took.
    #[schema(maximum = 2_147_483_647)]
    response_time_ms: Option<u32>,
    /// Bytes of the response.
    response_size: Option<u64>,
}

/// The call as completed.
#[derive(Debug, Serialize, ToSchema)]
struct OutcomeBody {
    call_id: Uuid,
    status_code: u16,
    response_time_ms: Option<u32>,
    response_size: Option<u64>,
    /// Whether it counts.
    counted: bool,
}

/// Completions that this process has written, so that a second one is told from a repetition before the projection has
/// the first. Cheap to clone.
#[derive(Clone)]
pub struct Outcomes(Arc<Inner>);

struct Inner {
    /// By the call's id: one completion of a call at a time.
    locks: [tokio::sync::Mutex<()>; LOCKS],
    done: Cache<Uuid, Written>,
}

/// What is known of a completion that this process has written.
#[derive(Clone, Copy)]
enum Written {
    Recorded(Done),
    /// It may be in the log, or not.
    Lost,
}

#[derive(Clone, Copy)]
struct Done {
    outcome: OutcomeRequest,
    counted: bool,
    seq: u64,
}

impl Default for Outcomes {
    fn default() -> Self {
        let locks = std::array::from_fn(|_| tokio::sync::Mutex::default());
        Self(Arc::new(Inner { locks, done: Cache::new(REMEMBERED) }))
    }
}

/// Completes a recorded call
///
/// For services, within an hour after the call. The same body again gives the same answer, another one 409. A 5xx
/// un-counts the call and gives its units back.
#[utoipa::path(
    post, path = "/api/usage/calls/{call_id}/outcome", tag = "usage",
    params(("call_id" = Uuid, Path, description = "From check or forward-auth")),
    request_body = OutcomeRequest,
    responses(
        (status = 200, description = "Completed", body = OutcomeBody),
        (status = 404, description = "No such call", body = ProblemBody),
        (status = 409, description = "Completed otherwise, or too long ago", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    )
)]
async fn outcome(
    caller: ServiceOrAdmin,
    State(state): State<AppState>,
    Path(call_id): Path<Uuid>,
    Keyed { body, request }: Keyed<OutcomeRequest>,
) -> Result<Response, Problem> {
    check_bounds(&body)?;
    let work = {
        let state = state.clone();
        move |attempt: Attempt| async move { complete(&state, call_id, body, attempt).await }
    };
    state.idempotency().run(&caller, request, work).await
}

fn check_bounds(body: &OutcomeRequest) -> Result<(), Problem> {
    let mut wrong = Vec::new();
    if body.response_time_ms.is_some_and(|ms| ms > i32::MAX.unsigned_abs()) {
        wrong.push(FieldError::at("/response_time_ms", "out_of_range", "it must be at most 2147483647"));
    }
    if body.response_size.is_some_and(|size| size > i64::MAX.unsigned_abs()) {
        wrong.push(FieldError::at(
            "/response_size",
            "out_of_range",
            "it must be at most 9223372036854775807",
        ));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Problem::validation(wrong)) }
}

async fn complete(
    state: &AppState,
    call_id: Uuid,
    outcome: OutcomeRequest,
    attempt: Attempt,
) -> Result<Response, Problem> {
    // What was completed before a restart must be projected before it can be told from what was not.
    state.limits().readiness().map_err(crate::limits::LimitsError::from)?;
    let outcomes = &state.outcomes().0;
    let lock = usize::try_from(call_id.as_u128() % LOCKS as u128).unwrap_or(0);
    let _one_at_a_time = timeout(TURN_WITHIN, outcomes.locks[lock].lock())
        .await
        .map_err(|_| Problem::busy("Other outcomes are still being recorded; try again."))?;
    match outcomes.done.get(&call_id) {
        Some(Written::Recorded(done)) => return repeated(state, call_id, outcome, done),
        Some(Written::Lost) => {
            find_lost(state).await?;
            outcomes.done.remove(&call_id);
        }
        None => {}
    }
    let call = find(state, call_id).await?;
    if let Some(status_code) = call.status_code {
        let done = Done {
            outcome: OutcomeRequest {
                status_code,
                response_time_ms: call.response_time_ms,
                response_size: call.response_size,
            },
            counted: call.counted,
            seq: state.watermark().current(),
        };
        return repeated(state, call_id, outcome, done);
    }
    let now = state.clock().now();
    if now > call.created_at + MAX_AGE {
        return Err(Problem::conflict("The call was made more than an hour ago; it stays as it is."));
    }
    let counted = call.counted && !outcome.status_code.is_server_error();
    let body = Body::CallCompleted(CallCompleted {
        call_id,
        call_time: call.created_at,
        status_code: outcome.status_code.get(),
        response_time_ms: outcome.response_time_ms,
        response_size: outcome.response_size,
        counted,
    });
    let published = publish(state, &Event::by_api(attempt.event_id, call.user, now, body)).await;
    if published.is_err_and(PublishError::may_be_recorded) {
        outcomes.done.insert(call_id, Written::Lost);
    }
    let done = Done { outcome, counted, seq: published? };
    outcomes.done.insert(call_id, Written::Recorded(done));
    // Given back only when the projection has it: until then the units would be counted as used all the same.
    state.watermark().wait_for(done.seq, PROJECTED_WITHIN).await;
    state.limits().expire(call.user);
    Ok(answer(state, call_id, done))
}

/// Waits until the projections show what became of a completion whose fate is not known.
async fn find_lost(state: &AppState) -> Result<(), Problem> {
    let last_seq = settled_seq(state.log()).await.map_err(|_| Problem::unavailable("log"))?;
    if state.watermark().wait_for(last_seq, LOOK_UP_WAIT).await {
        return Ok(());
    }
    Err(Problem::busy("What became of an earlier outcome is not known yet; try again."))
}

/// The call's row. One that was recorded a moment ago is waited for.
async fn find(state: &AppState, call_id: Uuid) -> Result<RecordedCall, Problem> {
    let last_acked = state.publisher().last_acked();
    if let Some(call) = look_up(state, call_id).await? {
        return Ok(call);
    }
    if !state.watermark().wait_for(last_acked, LOOK_UP_WAIT).await {
        return Err(Problem::busy("Calls recorded lately are not projected yet; try again."));
    }
    look_up(state, call_id).await?.ok_or_else(Problem::not_found)
}

async fn look_up(state: &AppState, call_id: Uuid) -> Result<Option<RecordedCall>, Problem> {
    let mut conn = state.pool().acquire().await.map_err(store::Error::from)?;
    // A service completes calls of all users, and knows them by their ids alone.
    Ok(store::outcomes::find_call(&mut conn, None, call_id).await?)
}

fn repeated(
    state: &AppState,
    call_id: Uuid,
    outcome: OutcomeRequest,
    done: Done,
) -> Result<Response, Problem> {
    if done.outcome == outcome {
        Ok(answer(state, call_id, done))
    } else {
        Err(Problem::conflict("The call is completed with another outcome."))
    }
}

fn answer(state: &AppState, call_id: Uuid, done: Done) -> Response {
    let body = OutcomeBody {
        call_id,
        status_code: done.outcome.status_code.get(),
        response_time_ms: done.outcome.response_time_ms,
        response_size: done.outcome.response_size,
        counted: done.counted,
    };
    (LedgerSeq::at(state, done.seq), Json(body)).into_response()
}

/// This file's endpoints.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(outcome))
}
