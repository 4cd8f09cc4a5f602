//! `POST /api/keys/{id}/rotate`: an API key gets another secret.

use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::TimeDelta;
use ledger::WholeNumber;
use serde::Deserialize;
use utoipa::ToSchema;

use super::body::{MadeBody, made};
use super::parts::ApiKeys;
use super::request::{Asked, asked, key_id};
use crate::auth::{Auth, UserOrAdmin, needs};
use crate::http::extract::{OwnerQuery, Path, Query};
use crate::http::idempotency::{Attempt, Idempotency, KeyHeader, Keyed};
use crate::http::problem::{FieldError, Problem, ProblemBody};

/// Longest time for which two secrets of a key are taken.
const MAX_OVERLAP_S: u64 = 7 * 24 * 3600;

/// How the secret is exchanged.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RotateApiKey)]
pub(super) struct RotateRequest {
    /// Seconds for which the earlier secret is still taken; 7 days at most. With 0 it ends at once.
    #[schema(value_type = u64, maximum = 604_800)]
    overlap_seconds: WholeNumber<0>,
}

/// Gives an API key another secret
///
/// The key stays the same one: its id, its budget and what it used. The answer shows the new secret, once.
#[utoipa::path(
    post, path = "/api/keys/{id}/rotate", tag = "keys",
    params(("id" = Uuid, Path), OwnerQuery, KeyHeader),
    request_body = RotateRequest,
    responses(
        (status = 200, description = "It has another secret", body = MadeBody),
        (status = 403, description = "Not by an API key; and keys of role service are an admin's alone", body = ProblemBody),
        (status = 404, description = "There is none, or it is another user's", body = ProblemBody),
        (status = 409, description = "It was revoked", body = ProblemBody),
        (status = 429, description = "More than ten changes a minute", body = ProblemBody),
    )
)]
pub(super) async fn rotate(
    caller: UserOrAdmin<needs::NoKey>,
    State(auth): State<Auth>,
    State(keys): State<ApiKeys>,
    State(idempotency): State<Idempotency>,
    Path(id): Path<String>,
    Query(query): Query<OwnerQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let Asked { owner, by, request } = asked(&auth, &caller, &query, request).await?;
    let Keyed { body, request } = Keyed::<RotateRequest>::from_request(request, &()).await?;
    let id = key_id(&id)?;
    let seconds = body.overlap_seconds.get();
    if seconds > MAX_OVERLAP_S {
        let detail = format!("an overlap is at most {MAX_OVERLAP_S} seconds");
        return Err(FieldError::at("/overlap_seconds", "out_of_range", detail).into());
    }
    keys.pace(&caller)?;
    let overlap = TimeDelta::seconds(i64::try_from(seconds).unwrap_or(0));
    let work = move |attempt: Attempt| async move {
        let event = (attempt.event_id, attempt.at);
        let key = keys.0.registry.rotate(owner, id, overlap, &by, event).await?;
        Ok(made(StatusCode::OK, &keys.0.writer, key))
    };
    idempotency.run(caller.key_owner(), request, work).await
}
