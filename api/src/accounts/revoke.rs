//! `DELETE /api/keys/{id}`: an API key is revoked.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};

use super::parts::ApiKeys;
use super::request::{by, key_id};
use crate::auth::{Auth, UserOrAdmin, needs};
use crate::http::extract::{OwnerQuery, Path, Query};
use crate::http::idempotency::Idempotency;
use crate::http::problem::{Problem, ProblemBody};

/// Revokes an API key, for ever
///
/// No instance takes it any more a second later. It stays in the list, and what it used in the figures.
#[utoipa::path(
    delete, path = "/api/keys/{id}", tag = "keys",
    params(("id" = Uuid, Path), OwnerQuery),
    responses(
        (status = 204, description = "It is revoked, now or before"),
        (status = 403, description = "Not by an API key; and keys of role service are an admin's alone", body = ProblemBody),
        (status = 404, description = "There is none, or it is another user's", body = ProblemBody),
    )
)]
pub(super) async fn revoke(
    caller: UserOrAdmin<needs::NoKey>,
    State(auth): State<Auth>,
    State(keys): State<ApiKeys>,
    State(idempotency): State<Idempotency>,
    Path(id): Path<String>,
    Query(query): Query<OwnerQuery>,
    parts: Parts,
) -> Result<Response, Problem> {
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let id = key_id(&id)?;
    let by = by(&caller, owner, &parts);
    let work = async move {
        let seq = keys.0.registry.revoke(owner, id, &by).await?;
        Ok(match seq {
            Some(seq) => (StatusCode::NO_CONTENT, keys.0.writer.at(seq), ()).into_response(),
            None => StatusCode::NO_CONTENT.into_response(),
        })
    };
    idempotency.to_its_end(work).await
}
