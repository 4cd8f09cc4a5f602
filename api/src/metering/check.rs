//! `POST /api/usage/check`: would this call be allowed, and, if asked to, record that it happens.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use ledger::limit::{self, Percentage, Status};
use ledger::{Meter, Method, PathError, Units, UserId, WholeNumber};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;
use uuid::Uuid;

use super::call::{Metered, MeteredCall, Particulars, append_would_block};
use super::{Metering, MeteringError};
use crate::auth::{Auth, User, needs};
use crate::config::Enforcement;
use crate::http::extract::Json;
use crate::http::idempotency::{Attempt, Idempotency, KeyHeader, Keyed};
use crate::http::problem::{Code, FieldError, Problem, ProblemBody};
use crate::limits::{Policy, Preview, Standing, append_usage_headers};

/// Time that a retried check waits to learn what became of the first try.
const RETRY_WAIT: Duration = Duration::from_secs(5);

/// The call in question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckRequest {
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
    #[schema(value_type = Option<u32>)]
    ttl_seconds: Option<WholeNumber<1>>,
}

/// Whether the call is allowed, and how its user stands.
#[derive(Debug, Serialize, ToSchema)]
struct CheckBody {
    allowed: bool,
    /// The meter that refuses (`key`: the budget of the API key), else the one with the fewest units left among those
    /// that the call uses. Null, as all figures are, where nobody can count just now and the call is allowed all the
    /// same.
    meter: Option<&'static str>,
    /// Null is unlimited.
    limit: Option<u64>,
    used: Option<u64>,
    remaining: Option<u64>,
    resets_at: DateTime<Utc>,
    #[schema(value_type = Option<String>)]
    status: Option<Status>,
    meters: Option<MetersBody>,
    /// The recorded call, for its outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    call_id: Option<Uuid>,
}

/// Both meters.
#[derive(Debug, Serialize, ToSchema)]
struct MetersBody {
    total: MeterBody,
    analyze: MeterBody,
    /// The API key's, if it has a budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<MeterBody>,
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
/// A user whom nobody has heard of gets an account, where `AUTO_PROVISION` is on.
#[utoipa::path(
    post, path = "/api/usage/check", tag = "usage",
    params(KeyHeader),
    request_body = CheckRequest,
    responses(
        (status = 200, description = "The decision", body = CheckBody),
        (status = 400, description = "Servers would read the path in different ways", body = ProblemBody),
        (status = 404, description = "No such user for this caller", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
        (status = 503, description = "It cannot be decided or recorded now", body = ProblemBody),
    )
)]
pub(super) async fn check(
    caller: User<needs::Check>,
    State(auth): State<Auth>,
    State(metering): State<Metering>,
    State(idempotency): State<Idempotency>,
    Keyed { body, request }: Keyed<CheckRequest>,
) -> Result<Response, Problem> {
    if body.reserve {
        return Err(FieldError::at("/reserve", "not_supported", "units cannot be reserved yet").into());
    }
    if body.ttl_seconds.is_some() {
        return Err(FieldError::at("/ttl_seconds", "not_supported", "it belongs to reserve").into());
    }
    let rules = &metering.0.rules;
    let endpoint = rules.endpoint(&body.endpoint).map_err(|error| path_problem("/endpoint", error))?;
    let user = auth.resolve_or_provision(&caller, body.user_id.as_deref()).await?;
    let now = metering.0.writer.now();
    let call = MeteredCall::new(rules, user, &endpoint, body.method, body.units, now).by(&caller);
    if !body.record {
        return Ok(metering.preview(&call).await?);
    }
    let actor = (caller.user_id != user).then(|| caller.actor());
    let particulars = Particulars { actor, ..Particulars::default() };
    let work = move |attempt| async move { Ok(metering.check_and_record(call, particulars, attempt).await?) };
    idempotency.run(caller.key_owner(), request, work).await
}

/// A path that no call has: 400 where servers read it in different ways, 422 where it is none.
fn path_problem(pointer: &'static str, error: PathError) -> Problem {
    match error {
        PathError::NotAPath | PathError::TooLong => FieldError::invalid(pointer, &error.into()).into(),
        _ => Problem::malformed(Code::MalformedUri, format!("{}: {error}.", pointer.trim_start_matches('/'))),
    }
}

impl Metering {
    /// Decides without recording anything.
    async fn preview(&self, call: &MeteredCall) -> Result<Response, MeteringError> {
        let (standing, refused) = match self.0.limits.preview(call.user, call.ask()).await? {
            Preview::Allowed(standing) => (standing, None),
            Preview::Refused(refusal) => (refusal.standing().clone(), Some(refusal.policy())),
            Preview::Unknown => return Ok(uncounted_answer(call, None)),
        };
        let refused = refused.filter(|_| call.classified.counted);
        let shadow = self.0.enforcement == Enforcement::Shadow;
        let mut response = answer(call, &standing, refused.filter(|_| !shadow), None);
        if let Some(policy) = refused.filter(|_| shadow) {
            append_would_block(response.headers_mut(), policy);
        }
        Ok(response)
    }

    /// Decides, and records what is allowed.
    async fn check_and_record(
        &self,
        call: MeteredCall,
        particulars: Particulars<'static>,
        attempt: Attempt,
    ) -> Result<Response, MeteringError> {
        // Seen before the log is asked: what is not in it after that time never will be.
        let is_settled = self.0.writer.now() >= attempt.earlier_until;
        // Id and instant are the first try's: should its frame still be on the way, both give the same row. Its month
        // and the plan in force then decide, however late this try is.
        let call = MeteredCall { at: attempt.at, ..call };
        if attempt.retried && self.is_recorded(call.user, attempt.event_id).await? {
            let response = self.answer_as_it_stands(&call, attempt.event_id).await;
            return Ok((self.0.writer.at(self.0.projections.current()), response).into_response());
        }
        match self.record(&call, attempt.event_id, particulars).await? {
            // The earlier try may have taken the units that are missing now, and its call would count all the same.
            Metered::Refused(_) if attempt.retried && !is_settled => Err(MeteringError::FirstTryUnknown),
            Metered::Refused(refusal) => Ok(answer(&call, refusal.standing(), Some(refusal.policy()), None)),
            Metered::Recorded(recorded) => {
                let mut response = match &recorded.standing {
                    Some(standing) => answer(&call, standing, None, Some(recorded.call_id)),
                    None => self.answer_as_it_stands(&call, recorded.call_id).await,
                };
                recorded.append_headers(response.headers_mut());
                Ok((self.0.writer.at(recorded.seq), response).into_response())
            }
        }
    }

    /// Tells whether an earlier try, of which nobody knows the end, has recorded the call.
    async fn is_recorded(&self, user: UserId, call_id: Uuid) -> Result<bool, MeteringError> {
        let projections = &self.0.projections;
        let last_seq = projections.last_seq().await?;
        if !projections.wait_for(last_seq, RETRY_WAIT).await {
            return Err(MeteringError::FirstTryUnknown);
        }
        let mut conn = projections.connection().await?;
        Ok(store::read::call_outcomes::find(&mut conn, Some(user), call_id).await?.is_some())
    }

    /// The answer about a recorded call that changes nothing (any more). It is on disk, so it is never an error: a
    /// client that tried again would be counted again.
    async fn answer_as_it_stands(&self, call: &MeteredCall, call_id: Uuid) -> Response {
        match self.0.limits.preview(call.user, call.ask()).await {
            Ok(Preview::Allowed(standing)) => answer(call, &standing, None, Some(call_id)),
            Ok(Preview::Refused(refusal)) => answer(call, refusal.standing(), None, Some(call_id)),
            Ok(Preview::Unknown) | Err(_) => uncounted_answer(call, Some(call_id)),
        }
    }
}

/// The answer that a call is allowed, without figures: nobody can count just now.
fn uncounted_answer(call: &MeteredCall, call_id: Option<Uuid>) -> Response {
    let answer = CheckBody {
        allowed: true,
        meter: None,
        limit: None,
        used: None,
        remaining: None,
        resets_at: call.ask().month.end(),
        status: None,
        meters: None,
        call_id,
    };
    Json(answer).into_response()
}

fn answer(
    call: &MeteredCall,
    standing: &Standing,
    refused: Option<Policy>,
    call_id: Option<Uuid>,
) -> Response {
    let body = |policy: Policy| {
        let (limit, used) = standing.of(policy);
        MeterBody {
            used,
            limit,
            remaining: limit::remaining(used, limit),
            percentage: limit::percentage(used, limit),
            status: limit::status(used, limit),
        }
    };
    let policy = refused.unwrap_or_else(|| standing.tightest(call.classified.category));
    let shown = body(policy);
    let answer = CheckBody {
        allowed: refused.is_none(),
        meter: Some(policy.as_str()),
        limit: shown.limit,
        used: Some(shown.used),
        remaining: shown.remaining,
        resets_at: standing.month.end(),
        status: Some(shown.status),
        meters: Some(MetersBody {
            total: body(Policy::Meter(Meter::Total)),
            analyze: body(Policy::Meter(Meter::Analyze)),
            key: standing.key.map(|_| body(Policy::Key)),
        }),
        call_id,
    };
    let mut headers = HeaderMap::new();
    append_usage_headers(&mut headers, standing, call.classified.category, call.at);
    (headers, Json(answer)).into_response()
}
