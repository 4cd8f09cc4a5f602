//! `POST /api/usage/calls/{call_id}/outcome`: how a call ended that was recorded before its end.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use events::{Body, CallCompleted, Event};
use ledger::{StatusCode, WholeNumber};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::outcomes::{CallEnd, Completed, Completion, MAX_AGE};
use super::recent::RecentCall;
use super::{Metering, MeteringError};
use crate::auth::{ServiceOrAdmin, needs};
use crate::http::extract::{Json, Path};
use crate::http::idempotency::{Attempt, Idempotency, KeyHeader, Keyed};
use crate::http::problem::{FieldError, Problem, ProblemBody};
use crate::limits::LimitsError;

/// A call that another process has just recorded is waited for so long, and so is what may be a completion.
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

/// An answered request: the call is completed so.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// By this request. It is on disk; of two instances that complete a call at once, the first one in the log does.
    Recorded(Completed),
    /// By an earlier request.
    Repeated(Completed),
}

/// Completes a recorded call
///
/// For services, within an hour after the call. On disk before the answer, which does not wait for the projection: that
/// takes the first outcome in the log. The same body again is answered 200, another one 409. A 5xx un-counts the call;
/// its units are given back when that is projected.
#[utoipa::path(
    post, path = "/api/usage/calls/{call_id}/outcome", tag = "usage",
    params(("call_id" = Uuid, Path, description = "From check or forward-auth"), KeyHeader),
    request_body = OutcomeRequest,
    responses(
        (status = 200, description = "Completed so before", body = OutcomeBody),
        (status = 202, description = "Recorded", body = OutcomeBody),
        (status = 404, description = "No such call", body = ProblemBody),
        (status = 409, description = "Completed otherwise, or too long ago", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    )
)]
pub(super) async fn outcome(
    caller: ServiceOrAdmin<needs::Check>,
    State(metering): State<Metering>,
    State(idempotency): State<Idempotency>,
    Path(call_id): Path<Uuid>,
    Keyed { body, request }: Keyed<OutcomeRequest>,
) -> Result<Response, Problem> {
    let end = CallEnd::try_from(body)?;
    let work = move |attempt| async move {
        let (status, done) = match metering.complete(call_id, end, attempt).await? {
            Outcome::Recorded(done) => (axum::http::StatusCode::ACCEPTED, done),
            Outcome::Repeated(done) => (axum::http::StatusCode::OK, done),
        };
        let body = Json(OutcomeBody::new(call_id, done));
        Ok((status, metering.0.writer.at(done.seq), body).into_response())
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
    /// Completes a call, or finds that it is completed so already. One request about a call at a time, until its
    /// completion is on disk.
    async fn complete(
        &self,
        call_id: Uuid,
        end: CallEnd,
        attempt: Attempt,
    ) -> Result<Outcome, MeteringError> {
        let parts = &*self.0;
        let _turn = parts.turns.of(call_id).await?;
        let call = self.find(call_id).await?;
        if let Some(Completion::Recorded(completed)) = call.completion {
            return completed.repeated(end).map(Outcome::Repeated);
        }
        let now = parts.writer.now();
        if now > call.at + MAX_AGE {
            return Err(MeteringError::TooLate);
        }
        let counted = call.counted && !end.status_code.is_server_error();
        let body = Body::CallCompleted(CallCompleted {
            call_id,
            call_time: call.at,
            status_code: end.status_code.get(),
            response_time_ms: end.response_time_ms,
            response_size: end.response_size,
            counted,
        });
        let published = parts.writer.record(&Event::by_api(attempt.event_id, call.user, now, body)).await;
        let completion = match published {
            Ok(seq) => Some(Completion::Recorded(Completed { end, counted, seq })),
            Err(error) => error.may_be_recorded().then_some(Completion::Lost),
        };
        parts.recent.put(call_id, RecentCall { completion, ..call }, now);
        let seq = published?;
        if call.counted && !counted {
            // Not before: another instance's completion may be the first one in the log, by which the call counts.
            parts.limits.read_at(call.user, seq);
        }
        Ok(Outcome::Recorded(Completed { end, counted, seq }))
    }

    /// The call as this process remembers it, else by its row.
    ///
    /// The row is also asked once it holds what this process has completed the call with, for another one may have been
    /// before it. A call that names its request may be another call of the same: its row is waited for.
    async fn find(&self, call_id: Uuid) -> Result<RecentCall, MeteringError> {
        let parts = &*self.0;
        let projected = parts.projections.current();
        match parts.recent.get(call_id) {
            Some(call) => match call.completion {
                None if !call.is_named => return Ok(call),
                None => self.wait_for_completions(call.seq).await?,
                Some(Completion::Recorded(completed)) if completed.seq > projected => return Ok(call),
                Some(Completion::Lost) => {
                    let seq = parts.projections.settled_seq().await?;
                    self.wait_for_completions(seq).await?;
                    let call = self.find_row(call_id).await?;
                    parts.recent.put(call_id, call, parts.writer.now());
                    return Ok(call);
                }
                Some(Completion::Recorded(_)) => {}
            },
            None => self.wait_for_forgotten(call_id).await?,
        }
        self.find_row(call_id).await
    }

    /// Waits until the rows hold the completions by this process that it has forgotten.
    async fn wait_for_forgotten(&self, call_id: Uuid) -> Result<(), MeteringError> {
        let parts = &*self.0;
        let forgotten = parts.recent.forgotten(call_id);
        let mut seq = forgotten.seq;
        if forgotten.is_lost {
            seq = seq.max(parts.projections.settled_seq().await?);
            parts.recent.find_forgotten(call_id, forgotten, seq);
        }
        self.wait_for_completions(seq).await
    }

    async fn wait_for_completions(&self, seq: u64) -> Result<(), MeteringError> {
        if self.0.projections.wait_for(seq, LOOK_UP_WAIT).await {
            return Ok(());
        }
        Err(MeteringError::EarlierCompletionUnknown)
    }

    /// The call by its row. One that another process has recorded a moment ago is waited for.
    async fn find_row(&self, call_id: Uuid) -> Result<RecentCall, MeteringError> {
        let parts = &*self.0;
        // What was completed before a restart must be projected before it can be told from what was not.
        parts.limits.readiness().map_err(LimitsError::from)?;
        if let Some(call) = self.look_up(call_id).await? {
            return Ok(call);
        }
        // Of no other id there can be a row that is not there yet.
        if made_at(call_id).is_none_or(|at| at < parts.writer.now() - MAX_AGE) {
            return Err(MeteringError::NoSuchCall);
        }
        let last_seq = parts.projections.last_seq().await?;
        if !parts.projections.wait_for(last_seq, LOOK_UP_WAIT).await {
            return Err(MeteringError::NotProjected);
        }
        self.look_up(call_id).await?.ok_or(MeteringError::NoSuchCall)
    }

    async fn look_up(&self, call_id: Uuid) -> Result<Option<RecentCall>, MeteringError> {
        let projections = &self.0.projections;
        let mut conn = projections.connection().await?;
        // A service completes calls of all users, and knows them by their ids alone.
        let found = store::read::call_outcomes::find(&mut conn, None, call_id).await?;
        let seq = projections.current();
        Ok(found.map(|call| RecentCall {
            user: call.user,
            at: call.created_at,
            seq,
            counted: call.counted,
            is_named: false,
            completion: Completed::of(&call, seq).map(Completion::Recorded),
        }))
    }
}

/// The millisecond of an id that the api may have given to a call.
fn made_at(call_id: Uuid) -> Option<DateTime<Utc>> {
    let timestamp = call_id.get_timestamp().filter(|_| call_id.get_version_num() == 7)?;
    let (seconds, nanos) = timestamp.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
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
