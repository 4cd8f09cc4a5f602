//! `GET /api/tokens`, `GET /api/tokens/{id}`: what may be told of stored tokens.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::TokenBody;
use super::parts::Tokens;
use super::request::token_id;
use crate::auth::{Auth, UserOrAdmin, needs};
use crate::facts::{AsOf, MinSeq, MinSeqHeader};
use crate::http::extract::{Json, OwnedListQuery, OwnerQuery, Path, Query};
use crate::http::paging::CursorScope;
use crate::http::problem::{Problem, ProblemBody};

/// The stored tokens, the newest first: at most one of each type.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tokens)]
pub(super) struct TokenList {
    items: Vec<TokenBody>,
    /// Leads to the next page; null on the last.
    next_cursor: Option<String>,
    as_of: AsOf,
}

/// The stored tokens
#[utoipa::path(
    get, path = "/api/tokens", tag = "tokens",
    params(OwnedListQuery, MinSeqHeader),
    responses((status = 200, body = TokenList))
)]
pub(super) async fn list(
    caller: UserOrAdmin<needs::Tokens>,
    _seen: MinSeq,
    State(auth): State<Auth>,
    State(tokens): State<Tokens>,
    Query(query): Query<OwnedListQuery>,
) -> Result<Json<TokenList>, Problem> {
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let scope = CursorScope::new(&[b"tokens", owner.get().as_bytes()]);
    let after = query.cursor.as_deref().map(|cursor| scope.open(cursor)).transpose()?;
    let (mut conn, as_of) = tokens.0.projections.snapshot().await?;
    let mut items: Vec<TokenBody> =
        store::read::stored_tokens::list(&mut conn, owner).await?.into_iter().map(TokenBody::from).collect();
    drop(conn);
    if let Some(shown) = after {
        items.retain(|token| place(token) < shown);
    }
    let next_cursor = query.limit.cut(&mut items).map(|last| scope.seal(&place(last)));
    Ok(Json(TokenList { items, next_cursor, as_of }))
}

/// Place of a token in the list: its time and id, so that bytes compare as they do.
fn place(token: &TokenBody) -> Vec<u8> {
    let micros = token.created_at.timestamp_micros().cast_unsigned();
    [&micros.to_be_bytes()[..], token.id.as_bytes()].concat()
}

/// One stored token
#[utoipa::path(
    get, path = "/api/tokens/{id}", tag = "tokens",
    params(("id" = Uuid, Path), OwnerQuery, MinSeqHeader),
    responses(
        (status = 200, body = TokenBody),
        (status = 404, description = "There is none, or it is another user's", body = ProblemBody),
    )
)]
pub(super) async fn get(
    caller: UserOrAdmin<needs::Tokens>,
    _seen: MinSeq,
    State(auth): State<Auth>,
    State(tokens): State<Tokens>,
    Path(id): Path<String>,
    Query(query): Query<OwnerQuery>,
) -> Result<Json<TokenBody>, Problem> {
    let (owner, id) = (auth.resolve(&caller, query.user_id.as_deref()).await?, token_id(&id)?);
    let (mut conn, _) = tokens.0.projections.snapshot().await?;
    let token = store::read::stored_tokens::get(&mut conn, owner, id).await?;
    token.map(|token| Json(token.into())).ok_or_else(Problem::not_found)
}
