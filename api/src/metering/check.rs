//! `POST /api/usage/check`: would this call be allowed, and, if asked to, record that it happens.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use ledger::limit::{self, Percentage, Status};
use ledger::{Clock, Endpoint, Meter, Method, Units, UserId};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::auth::User;
use crate::config::Enforcement;
use crate::facts::position::LedgerSeq;
use crate::facts::writer::actor;
use crate::http::extract::Json;
use crate::http::idempotency::{Attempt, Keyed};
use crate::http::problem::{FieldError, Problem, ProblemBody};
use crate::limits::{Preview, Standing, append_usage_headers};
use crate::metering::call::{Metered, MeteredCall, Particulars, append_would_block, path_problem};
use crate::state::AppState;

/// How long a retried check waits to learn what became of the first try.
const RETRY_WAIT: Duration = Duration::from_secs(5);

/// The call in question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    /// UUID or external id; the caller unless given.
    user_id: Option<String>,
    /// Path of the call.
    #[schema(max_length = 2048)]
    endpoint: String,
    /// HTTP method.
    #[schema(value_type = Option<String>, max_length = 32)]
    method: Option<Method>,
    /// What it costs; what the rules say unless given.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    units: Option<Units>,
    /// Whether an allowed call is recorded.
    #[serde(default)]
    record: bool,
    /// Whether an allowed call's units are held: not supported yet.
    #[serde(default)]
    reserve: bool,
    /// How long units are held.
    ttl_seconds: Option<u32>,
}

/// Whether the call is allowed, and how its user stands.
#[derive(Debug, Serialize, ToSchema)]
struct CheckBody {
    allowed: bool,
    /// The meter that refuses, else the one with the fewest units left among those that the call uses.
    #[schema(value_type = String)]
    meter: Meter,
    /// Null is unlimited.
    limit: Option<u64>,
    used: u64,
    remaining: Option<u64>,
    resets_at: DateTime<Utc>,
    #[schema(value_type = String)]
    status: Status,
    meters: MetersBody,
    /// The recorded call, for its outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    call_id: Option<Uuid>,
}

/// Both meters.
#[derive(Debug, Serialize, ToSchema)]
struct MetersBody {
    total: MeterBody,
    analyze: MeterBody,
}

/// A meter.
#[derive(Debug, Serialize, ToSchema)]
struct MeterBody {
    used: u64,
    limit: Option<u64>,
    remaining: Option<u64>,
    #[schema(value_type = Option<f64>)]
    percentage: Option<Percentage>,
    #[schema(value_type = String)]
    status: Status,
}

/// Asks whether a call would be allowed
///
/// 200 in both cases. With `record` an allowed call is also recorded, on disk before the answer, and answers `call_id`.
#[utoipa::path(
    post, path = "/api/usage/check", tag = "usage",
    request_body = CheckRequest,
    responses(
        (status = 200, description = "The decision", body = CheckBody),
        (status = 400, description = "Servers would read the path in different ways", body = ProblemBody),
        (status = 404, description = "No such user for this caller", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
        (status = 503, description = "It cannot be decided or recorded now", body = ProblemBody),
    )
)]
async fn check(
    caller: User,
    State(state): State<AppState>,
    State(clock): State<Clock>,
    Keyed { body, request }: Keyed<CheckRequest>,
) -> Result<Response, Problem> {
    if body.reserve {
        return Err(FieldError::at("/reserve", "not_supported", "units cannot be reserved yet").into());
    }
    if body.ttl_seconds.is_some() {
        return Err(FieldError::at("/ttl_seconds", "not_supported", "it belongs to reserve").into());
    }
    let endpoint = Endpoint::from_path(&body.endpoint).map_err(|error| path_problem("/endpoint", error))?;
    let user = state.users().resolve_living(&caller, body.user_id.as_deref()).await?;
    let call_at =
        |at| MeteredCall::new(&state.config().rules, user, &endpoint, body.method.clone(), body.units, at);
    if !body.record {
        return preview(&state, &call_at(clock.now())).await;
    }
    let work = {
        let (state, actor) = (state.clone(), (caller.user_id != user).then(|| actor(&caller)));
        let call = call_at(clock.now());
        move |attempt: Attempt| async move {
            // Seen before the log is asked: what is not in it after that time never will be.
            let is_settled = state.clock().now() >= attempt.earlier_until;
            if attempt.retried && is_recorded(&state, user, attempt.event_id).await? {
                return recorded_before(&state, &call, attempt.event_id).await;
            }
            // Id and instant are the first try's: should its frame still be on the way, both give the same row.
            let call = MeteredCall { at: attempt.at, ..call };
            let particulars = Particulars { actor, ..Particulars::default() };
            match call.record(state.limits(), state.sealer(), attempt.event_id, particulars).await? {
                // The earlier try may have taken the units that are missing now, and its call would count all the same.
                Metered::Refused(_) if attempt.retried && !is_settled => {
                    Err(Problem::busy("What became of the first try is not known yet; try again."))
                }
                Metered::Refused(refusal) => {
                    Ok(answer(&call, refusal.standing(), Some(refusal.meter()), None))
                }
                Metered::Recorded(recorded) => {
                    let mut response = match &recorded.standing {
                        Some(standing) => answer(&call, standing, None, Some(recorded.call_id)),
                        None => answer_as_it_stands(&state, &call, recorded.call_id).await?,
                    };
                    recorded.append_headers(response.headers_mut(), &call);
                    Ok((LedgerSeq::at(&state, recorded.seq), response).into_response())
                }
            }
        }
    };
    state.idempotency().run(&caller, request, work).await
}

/// Decides without recording anything.
async fn preview(state: &AppState, call: &MeteredCall) -> Result<Response, Problem> {
    let (standing, refused) = match state.limits().preview(call.user, call.ask()).await? {
        Preview::Allowed(standing) => (standing, None),
        Preview::Refused(refusal) => (refusal.standing().clone(), Some(refusal.meter())),
    };
    let refused = refused.filter(|_| call.classified.counted);
    let shadow = state.config().enforcement == Enforcement::Shadow;
    let mut response = answer(call, &standing, refused.filter(|_| !shadow), None);
    if let Some(meter) = refused.filter(|_| shadow) {
        append_would_block(response.headers_mut(), meter);
    }
    Ok(response)
}

/// Whether an earlier try, of which nobody knows the end, has recorded the call.
async fn is_recorded(state: &AppState, user: UserId, call_id: Uuid) -> Result<bool, Problem> {
    let last_seq = state.log().state().await.map_err(|_| Problem::unavailable("log"))?.last_seq;
    if !state.watermark().wait_for(last_seq, RETRY_WAIT).await {
        return Err(Problem::busy("What became of the first try is not known yet; try again."));
    }
    let mut conn = state.pool().acquire().await.map_err(store::Error::from)?;
    Ok(store::outcomes::find_call(&mut conn, Some(user), call_id).await?.is_some())
}

async fn recorded_before(state: &AppState, call: &MeteredCall, call_id: Uuid) -> Result<Response, Problem> {
    let response = answer_as_it_stands(state, call, call_id).await?;
    Ok((LedgerSeq::at(state, state.watermark().current()), response).into_response())
}

/// The answer about a recorded call that changes nothing (any more).
async fn answer_as_it_stands(
    state: &AppState,
    call: &MeteredCall,
    call_id: Uuid,
) -> Result<Response, Problem> {
    let standing = match state.limits().preview(call.user, call.ask()).await? {
        Preview::Allowed(standing) => standing,
        Preview::Refused(refusal) => refusal.standing().clone(),
    };
    Ok(answer(call, &standing, None, Some(call_id)))
}

fn answer(
    call: &MeteredCall,
    standing: &Standing,
    refused: Option<Meter>,
    call_id: Option<Uuid>,
) -> Response {
    let (limits, used) = (standing.terms.limits, standing.used);
    let body = |meter: Meter| MeterBody {
        used: used.of(meter),
        limit: limits.of(meter),
        remaining: limit::remaining(used.of(meter), limits.of(meter)),
        percentage: limit::percentage(used.of(meter), limits.of(meter)),
        status: limit::status(used.of(meter), limits.of(meter)),
    };
    let meter = refused.unwrap_or_else(|| limit::tightest(limits, used, call.classified.category));
    let shown = body(meter);
    let answer = CheckBody {
        allowed: refused.is_none(),
        meter,
        limit: shown.limit,
        used: shown.used,
        remaining: shown.remaining,
        resets_at: standing.month.end(),
        status: shown.status,
        meters: MetersBody { total: body(Meter::Total), analyze: body(Meter::Analyze) },
        call_id,
    };
    let mut headers = HeaderMap::new();
    append_usage_headers(&mut headers, standing, call.classified.category, call.at);
    (headers, Json(answer)).into_response()
}

/// This file's endpoints.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(check))
}
