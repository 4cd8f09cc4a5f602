//! `PATCH /api/keys/{id}`: what an API key may do is changed.

use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use store::identity::api_keys::KeyChange;
use store::identity::users::Change;
use utoipa::ToSchema;

use super::body::KeyBody;
use super::parts::ApiKeys;
use super::request::{Asked, Budget, End, NetworkList, ScopeList, asked, given, key_id};
use crate::auth::{Auth, UserOrAdmin, needs};
use crate::http::extract::{Json, OwnerQuery, Path, Query, Text};
use crate::http::idempotency::Idempotency;
use crate::http::problem::{Problem, ProblemBody};

/// What to change. An absent field stays as it is; null clears a budget or an end.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChangeApiKey)]
pub(super) struct ChangeRequest {
    /// What it is called.
    #[schema(value_type = Option<String>, max_length = 255)]
    name: Option<Text<255>>,
    /// What it may do.
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<ScopeList>,
    /// Networks from which alone it is taken; empty: from anywhere.
    #[schema(value_type = Option<Vec<String>>, max_items = 32)]
    networks: Option<NetworkList>,
    /// Units a month that it may use. What it used this month counts, also before it had a budget.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>, maximum = 9_223_372_036_854_775_807_u64)]
    budget: Change<Budget>,
    /// Its end.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Change<End>,
}

/// Changes an API key
///
/// It holds for the next call of this instance, and on all others within a second.
#[utoipa::path(
    patch, path = "/api/keys/{id}", tag = "keys",
    params(("id" = Uuid, Path), OwnerQuery),
    request_body = ChangeRequest,
    responses(
        (status = 200, description = "Changed", body = KeyBody),
        (status = 403, description = "Not by an API key; and keys of role service are an admin's alone", body = ProblemBody),
        (status = 404, description = "There is none, or it is another user's", body = ProblemBody),
        (status = 409, description = "It was revoked", body = ProblemBody),
        (status = 429, description = "More than ten changes a minute", body = ProblemBody),
    )
)]
pub(super) async fn change(
    caller: UserOrAdmin<needs::NoKey>,
    State(auth): State<Auth>,
    State(keys): State<ApiKeys>,
    State(idempotency): State<Idempotency>,
    Path(id): Path<String>,
    Query(query): Query<OwnerQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let Asked { owner, by, request } = asked(&auth, &caller, &query, request).await?;
    let Json(body) = Json::<ChangeRequest>::from_request(request, &()).await?;
    let id = key_id(&id)?;
    keys.pace(&caller)?;
    let change = KeyChange {
        name: body.name.map(Text::into_string),
        scopes: body.scopes.map(|scopes| scopes.0),
        networks: body.networks.map(|networks| networks.0),
        budget: body.budget.map(|budget| budget.0),
        expires_at: body.expires_at.map(|end| end.0),
    };
    let work = async move {
        let (key, seq) = keys.0.registry.change(owner, id, &change, &by).await?;
        Ok((keys.0.writer.at(seq), Json(KeyBody::new(key))).into_response())
    };
    idempotency.to_its_end(work).await
}
