//! `POST /api/keys`: an API key is made.

use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use credentials::KeyRole;
use serde::Deserialize;
use store::identity::api_keys::Terms;
use utoipa::ToSchema;

use super::body::{MadeBody, made};
use super::error::ApiKeysError;
use super::parts::ApiKeys;
use super::registry::Spec;
use super::request::{Asked, Budget, End, NetworkList, Role, ScopeList, asked};
use crate::auth::{self, Auth, UserOrAdmin, needs};
use crate::http::extract::{OwnerQuery, Query, Text};
use crate::http::idempotency::{Attempt, Idempotency, KeyHeader, Keyed};
use crate::http::problem::{Problem, ProblemBody};

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApiKey)]
pub(super) struct CreateRequest {
    /// What it is called; nothing secret.
    #[schema(value_type = String, max_length = 255)]
    name: Text<255>,
    /// `user` unless given: it acts as its user. `service`, which only an admin makes, acts for any user.
    #[schema(value_type = Option<String>)]
    role: Option<Role>,
    /// What it may do; nothing unless given. Of users: `ingest`, `check`, `read`, `tokens`; of services: `ingest`,
    /// `check`, `read`, `plans`, `users`, `erase`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    scopes: ScopeList,
    /// Networks from which alone it is taken, 32 at most, such as `10.0.0.0/8`; from anywhere unless given.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>, max_items = 32)]
    networks: NetworkList,
    /// Units a month that it may use, below the plan's limit; no bound of its own unless given. 0 is none at all.
    #[schema(value_type = Option<u64>, maximum = 9_223_372_036_854_775_807_u64)]
    budget: Option<Budget>,
    /// Its end; never unless given.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<End>,
}

/// Makes an API key
///
/// The answer shows its secret, once: a repeated request is answered without it. A user has 50 keys at most that can be
/// used, and makes and changes ten a minute.
#[utoipa::path(
    post, path = "/api/keys", tag = "keys",
    params(OwnerQuery, KeyHeader),
    request_body = CreateRequest,
    responses(
        (status = 201, description = "Made", body = MadeBody),
        (status = 403, description = "Not by an API key; and only an admin makes keys of role service", body = ProblemBody),
        (status = 409, description = "The user has 50 keys already, or was erased", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
        (status = 429, description = "More than ten changes a minute", body = ProblemBody),
    )
)]
pub(super) async fn create(
    caller: UserOrAdmin<needs::NoKey>,
    State(auth): State<Auth>,
    State(keys): State<ApiKeys>,
    State(idempotency): State<Idempotency>,
    Query(query): Query<OwnerQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let Asked { owner, by, request } = asked(&auth, &caller, &query, request).await?;
    let keyed = Keyed::from_request(request, &()).await?;
    let Keyed { body: CreateRequest { name, role, scopes, networks, budget, expires_at }, request } = keyed;
    let role = role.map_or(KeyRole::User, |Role(role)| role);
    if role == KeyRole::Service && caller.role != auth::Role::Admin {
        return Err(ApiKeysError::NotByUser.into());
    }
    keys.pace(&caller)?;
    let terms = Terms {
        scopes: scopes.0,
        networks: networks.0,
        budget: budget.map(|Budget(units)| units),
        expires_at: expires_at.map(|End(at)| at),
    };
    let spec = Spec { name: name.into_string(), role, terms };
    let work = move |attempt: Attempt| async move {
        let event = (attempt.event_id, attempt.at);
        let key = keys.0.registry.create(owner, spec, &by, event).await?;
        Ok(made(StatusCode::CREATED, &keys.0.writer, key))
    };
    idempotency.run(caller.key_owner(), request, work).await
}
