//! `GET /api/keys`, `GET /api/keys/{id}`: API keys, without what they are known by.

use axum::extract::State;
use ledger::KeyId;
use serde::Serialize;
use store::identity::api_keys;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::KeyBody;
use super::error::ApiKeysError;
use super::parts::ApiKeys;
use super::request::key_id;
use crate::auth::{Auth, Principal, Role, UserOrAdmin, needs};
use crate::http::extract::{Json, OwnedListQuery, OwnerQuery, Path, Query};
use crate::http::paging::CursorScope;
use crate::http::problem::{Problem, ProblemBody};

/// A page of API keys, the newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKeys)]
pub(super) struct KeyList {
    items: Vec<KeyBody>,
    /// Leads to the next page; null on the last.
    next_cursor: Option<String>,
}

/// API keys
///
/// Those that were revoked or have ended too, up to 200 of them.
#[utoipa::path(
    get, path = "/api/keys", tag = "keys",
    params(OwnedListQuery),
    responses((status = 200, body = KeyList))
)]
pub(super) async fn list(
    caller: UserOrAdmin<needs::NoKey>,
    State(auth): State<Auth>,
    State(keys): State<ApiKeys>,
    Query(query): Query<OwnedListQuery>,
) -> Result<Json<KeyList>, Problem> {
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let scope = CursorScope::new(&[b"api_keys", owner.get().as_bytes()]);
    let before = query.cursor.as_deref().map(|cursor| place(&scope, cursor)).transpose()?;
    let mut conn = keys.connection().await?;
    let now = keys.0.registry.now();
    let mut found = api_keys::list(&mut conn, owner, before, now, query.limit.to_read()).await?;
    let next_cursor = query.limit.cut(&mut found).map(|last| scope.seal(last.id.get().as_bytes()));
    Ok(Json(KeyList { items: found.into_iter().map(KeyBody::new).collect(), next_cursor }))
}

/// An API key
#[utoipa::path(
    get, path = "/api/keys/{id}", tag = "keys",
    params(("id" = Uuid, Path), OwnerQuery),
    responses(
        (status = 200, body = KeyBody),
        (status = 404, description = "There is none, or it is another user's", body = ProblemBody),
    )
)]
pub(super) async fn get(
    caller: UserOrAdmin<needs::NoKey>,
    State(auth): State<Auth>,
    State(keys): State<ApiKeys>,
    Path(id): Path<String>,
    Query(query): Query<OwnerQuery>,
) -> Result<Json<KeyBody>, Problem> {
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let id = key_id(&id)?;
    let mut conn = keys.connection().await?;
    let key = api_keys::get(&mut conn, owner, id, keys.0.registry.now()).await?;
    Ok(Json(KeyBody::new(key.ok_or(ApiKeysError::NoSuchKey)?)))
}

fn place(scope: &CursorScope, cursor: &str) -> Result<KeyId, Problem> {
    let payload = scope.open(cursor)?;
    Uuid::from_slice(&payload).map(KeyId::new).map_err(|_| CursorScope::refused())
}

impl ApiKeys {
    /// 429 for a user who has made, changed and revoked ten keys within a minute; what an admin does is not paced.
    pub(super) fn pace(&self, caller: &Principal) -> Result<(), Problem> {
        if caller.role == Role::Admin { Ok(()) } else { self.0.changes.check(caller.user_id) }
    }
}
