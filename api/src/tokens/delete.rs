//! `DELETE /api/tokens/{id}`: a stored token is taken away.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use events::{Body, Event, TokenDeleted};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Client, OwnerQuery, seal_personal, token_id};
use crate::auth::UserOrAdmin;
use crate::facts::position::LedgerSeq;
use crate::facts::writer::{PROJECTED_WITHIN, actor, record};
use crate::http::extract::{Path, Query};
use crate::http::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// Deletes a stored token
///
/// At most 10 tokens stored and deleted a minute.
#[utoipa::path(
    delete, path = "/api/tokens/{id}", tag = "tokens",
    params(("id" = Uuid, Path), OwnerQuery),
    responses(
        (status = 204, description = "It is gone"),
        (status = 202, description = "Recorded, not projected yet"),
        (status = 404, description = "There is none, or it is another user's", body = ProblemBody),
        (status = 429, description = "More than 10 tokens stored and deleted a minute", body = ProblemBody),
    )
)]
async fn delete(
    caller: UserOrAdmin,
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<OwnerQuery>,
    parts: Parts,
) -> Result<Response, Problem> {
    let (owner, id) = (state.users().resolve(&caller, query.user_id.as_deref()).await?, token_id(&id)?);
    let mut conn = state.pool().acquire().await.map_err(store::Error::from)?;
    let token = store::read::tokens::get(&mut conn, owner, id).await?.ok_or_else(Problem::not_found)?;
    drop(conn);
    state.token_changes().check(caller.user_id)?;
    let client = Client::of(*caller, &parts);
    let keys = state.idempotency().clone();
    keys.to_its_end(async move {
        let event_id = state.ids().event_id();
        let body = Body::TokenDeleted(TokenDeleted {
            token_id: id,
            token_type: Cow::Owned(token.token_type),
            actor: actor(&client.principal),
            personal: seal_personal(&state, owner, event_id, &client, None).await?,
        });
        let seq = record(&state, &Event::by_api(event_id, owner, state.clock().now(), body)).await?;
        let projected = state.watermark().wait_for(seq, PROJECTED_WITHIN).await;
        let status = if projected { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
        Ok((status, LedgerSeq::at(&state, seq), ()).into_response())
    })
    .await
}

/// This file's endpoints.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(delete))
}
