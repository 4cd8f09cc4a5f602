//! `DELETE /api/tokens/{id}`: a stored token is taken away.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use events::{Body, Event, TokenDeleted};
use ledger::UserId;
use store::read::stored_tokens::StoredToken;

use super::error::TokensError;
use super::parts::Tokens;
use super::request::{Client, token_id};
use crate::auth::{Auth, UserOrAdmin, needs};
use crate::facts::Written;
use crate::http::extract::{OwnerQuery, Path, Query};
use crate::http::idempotency::Idempotency;
use crate::http::problem::{Problem, ProblemBody};

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
pub(super) async fn delete(
    caller: UserOrAdmin<needs::Tokens>,
    State(auth): State<Auth>,
    State(tokens): State<Tokens>,
    State(idempotency): State<Idempotency>,
    Path(id): Path<String>,
    Query(query): Query<OwnerQuery>,
    parts: Parts,
) -> Result<Response, Problem> {
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let token = tokens.find(owner, token_id(&id)?).await?;
    tokens.0.changes.check(caller.user_id)?;
    let client = Client::of(*caller, &parts);
    let work =
        async move { Ok(tokens.delete(owner, token, &client).await?.answer(StatusCode::NO_CONTENT, ())) };
    idempotency.to_its_end(work).await
}

impl Tokens {
    async fn delete(
        &self,
        owner: UserId,
        token: StoredToken,
        client: &Client,
    ) -> Result<Written, TokensError> {
        let event_id = self.0.writer.new_id();
        let body = Body::TokenDeleted(TokenDeleted {
            token_id: token.id,
            token_type: Cow::Owned(token.token_type),
            actor: client.principal.actor(),
            personal: self.seal_personal(owner, event_id, client, None).await?,
        });
        let event = Event::by_api(event_id, owner, self.0.writer.now(), body);
        Ok(self.0.writer.write(&event).await?)
    }
}
