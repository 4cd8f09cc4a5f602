//! `POST /api/usage/calls/{call_id}/outcome`: how a call ended that was recorded before its end.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use events::{Body, CallCompleted, Event};
use ledger::{StatusCode, WholeNumber};
use nats::PublishError;
use serde::{Deserialize, Serialize};
use store::read::call_outcomes::RecordedCall;
use utoipa::ToSchema;
use uuid::Uuid;

use super::outcomes::{CallEnd, Completed, Completion};
use super::{Metering, MeteringError};
use crate::auth::ServiceOrAdmin;
use crate::facts::PROJECTED_WITHIN;
use crate::http::extract::{Json, Path};
use crate::http::idempotency::{Attempt, Idempotency, KeyHeader, Keyed};
use crate::http::problem::{FieldError, Problem, ProblemBody};
use crate::limits::LimitsError;

/// A call may be completed so long after its beginning.
const MAX_AGE: TimeDelta = TimeDelta::hours(1);
/// A call that has just been recorded is waited for so long.
const LOOK_UP_WAIT: Duration = Duration::from_secs(5);

/// How the call ended.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OutcomeRequest {
    /// 100 to 599. A call that ended with a 5xx does not count.
    #[schema(value_type = u16, minimum = 100, maximum = 599)]
    status_code: StatusCode,
    /// How long it took.
    #[schema(value_type = Option<u32>, maximum = 2_147_483_647)]
    response_time_ms: Option<WholeNumber<0>>,
    /// Bytes of the response.
    #[schema(value_type = Option<u64>, maximum = 9_223_372_036_854_775_807_u64)]
    response_size: Option<WholeNumber<0>>,
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

/// Completes a recorded call
///
/// For services, within an hour after the call. The same body again gives the same answer, another one 409. A 5xx
/// un-counts the call and gives its units back.
#[utoipa::path(
    post, path = "/api/usage/calls/{call_id}/outcome", tag = "usage",
    params(("call_id" = Uuid, Path, description = "From check or forward-auth"), KeyHeader),
    request_body = OutcomeRequest,
    responses(
        (status = 200, description = "Completed", body = OutcomeBody),
        (status = 404, description = "No such call", body = ProblemBody),
        (status = 409, description = "Completed otherwise, or too long ago", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    )
)]
pub(super) async fn outcome(
    caller: ServiceOrAdmin,
    State(metering): State<Metering>,
    State(idempotency): State<Idempotency>,
    Path(call_id): Path<Uuid>,
    Keyed { body, request }: Keyed<OutcomeRequest>,
) -> Result<Response, Problem> {
    let end = CallEnd::try_from(body)?;
    let work = move |attempt| async move {
        let done = metering.complete(call_id, end, attempt).await?;
        Ok((metering.0.writer.at(done.seq), Json(OutcomeBody::new(call_id, done))).into_response())
    };
    idempotency.run(caller.key_owner(), request, work).await
}

impl TryFrom<OutcomeRequest> for CallEnd {
    type Error = Problem;

    /// 422 naming each number that no column holds.
    fn try_from(request: OutcomeRequest) -> Result<Self, Problem> {
        let OutcomeRequest { status_code, response_time_ms, response_size } = request;
        let mut wrong = Vec::new();
        let mut bounded = |name: &str, number: Option<WholeNumber<0>>, max: u64| {
            let number = number.map(WholeNumber::get)?;
            if number > max {
                let detail = format!("{name} must be at most {max}");
                wrong.push(FieldError::at(format!("/{name}"), "out_of_range", detail));
            }
            Some(number)
        };
        let time = bounded("response_time_ms", response_time_ms, i32::MAX.unsigned_abs().into());
        let response_size = bounded("response_size", response_size, i64::MAX.unsigned_abs());
        if !wrong.is_empty() {
            return Err(Problem::validation(wrong));
        }
        let response_time_ms = time.and_then(|ms| u32::try_from(ms).ok());
        Ok(Self { status_code, response_time_ms, response_size })
    }
}

impl Metering {
    /// Completes a call, or finds that it is completed so already.
    async fn complete(
        &self,
        call_id: Uuid,
        end: CallEnd,
        attempt: Attempt,
    ) -> Result<Completed, MeteringError> {
        let Self(parts) = self;
        // What was completed before a restart must be projected before it can be told from what was not.
        parts.limits.readiness().map_err(LimitsError::from)?;
        let _one_at_a_time = parts.outcomes.turns.of(call_id).await?;
        match parts.outcomes.last.get(&call_id) {
            Some(Completion::Recorded(completed)) => return completed.repeated(end),
            Some(Completion::Lost) => {
                self.find_lost().await?;
                parts.outcomes.last.remove(&call_id);
            }
            None => {}
        }
        let call = self.find(call_id).await?;
        if let Some(completed) = Completed::of(&call, parts.projections.current()) {
            return completed.repeated(end);
        }
        let now = parts.writer.now();
        if now > call.created_at + MAX_AGE {
            return Err(MeteringError::TooLate);
        }
        let counted = call.counted && !end.status_code.is_server_error();
        let body = Body::CallCompleted(CallCompleted {
            call_id,
            call_time: call.created_at,
            status_code: end.status_code.get(),
            response_time_ms: end.response_time_ms,
            response_size: end.response_size,
            counted,
        });
        let published = parts.writer.record(&Event::by_api(attempt.event_id, call.user, now, body)).await;
        if published.is_err_and(PublishError::may_be_recorded) {
            parts.outcomes.last.insert(call_id, Completion::Lost);
        }
        let completed = Completed { end, counted, seq: published? };
        parts.outcomes.last.insert(call_id, Completion::Recorded(completed));
        // Given back only when the projection has it: until then the units would be counted as used all the same.
        parts.projections.wait_for(completed.seq, PROJECTED_WITHIN).await;
        parts.limits.expire(call.user);
        Ok(completed)
    }

    /// Waits until the projections show what became of a completion whose fate is not known.
    async fn find_lost(&self) -> Result<(), MeteringError> {
        let last_seq = self.0.projections.settled_seq().await?;
        if self.0.projections.wait_for(last_seq, LOOK_UP_WAIT).await {
            return Ok(());
        }
        Err(MeteringError::EarlierCompletionUnknown)
    }

    /// The call's row. One that was recorded a moment ago is waited for.
    async fn find(&self, call_id: Uuid) -> Result<RecordedCall, MeteringError> {
        let last_recorded = self.0.projections.last_recorded();
        if let Some(call) = self.look_up(call_id).await? {
            return Ok(call);
        }
        if !self.0.projections.wait_for(last_recorded, LOOK_UP_WAIT).await {
            return Err(MeteringError::NotProjected);
        }
        self.look_up(call_id).await?.ok_or(MeteringError::NoSuchCall)
    }

    async fn look_up(&self, call_id: Uuid) -> Result<Option<RecordedCall>, MeteringError> {
        let mut conn = self.0.projections.connection().await?;
        // A service completes calls of all users, and knows them by their ids alone.
        Ok(store::read::call_outcomes::find(&mut conn, None, call_id).await?)
    }
}

impl OutcomeBody {
    fn new(call_id: Uuid, completed: Completed) -> Self {
        let Completed { end, counted, .. } = completed;
        Self {
            call_id,
            status_code: end.status_code.get(),
            response_time_ms: end.response_time_ms,
            response_size: end.response_size,
            counted,
        }
    }
}
