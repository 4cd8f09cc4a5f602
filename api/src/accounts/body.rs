//! An API key as it is shown.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use credentials::{KeyRole, Scope};
use serde::Serialize;
use store::identity::api_keys::ApiKey;
use utoipa::ToSchema;
use uuid::Uuid;

use super::registry::Made;
use crate::facts::Writer;
use crate::http::extract::Json;
use crate::http::idempotency::Kept;

/// An API key, without its secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(super) struct KeyBody {
    id: Uuid,
    /// Whose it is.
    user_id: Uuid,
    name: String,
    /// `user` or `service`.
    role: &'static str,
    /// Parts of the role that it may use.
    scopes: Vec<&'static str>,
    /// Networks from which alone it is taken; empty: from anywhere.
    networks: Vec<String>,
    /// Units a month that it may use; null: as many as the plan has.
    budget: Option<u64>,
    /// Beginning of its newest secret.
    prefix: String,
    /// End of its newest secret.
    last_four: String,
    created_at: DateTime<Utc>,
    /// UUID of the user who made it, or the operator's name.
    created_by: String,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    /// Give or take a minute.
    last_used_at: Option<DateTime<Utc>>,
    /// End of an earlier secret, while that is still taken.
    earlier_end_at: Option<DateTime<Utc>>,
}

/// An API key, and its secret: shown now and never again.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ApiKeyWithSecret)]
pub(super) struct MadeBody {
    #[serde(flatten)]
    key: KeyBody,
    /// The key itself, for `Authorization: Bearer …` or `X-Api-Key`; null when this answer is a repeated one.
    secret: Option<String>,
}

impl KeyBody {
    pub(super) fn new(key: ApiKey) -> Self {
        Self {
            id: key.id.get(),
            user_id: key.user.get(),
            name: key.name,
            role: KeyRole::as_str(key.role),
            scopes: key.terms.scopes.iter().map(Scope::as_str).collect(),
            networks: key.terms.networks.texts(),
            budget: key.terms.budget,
            prefix: key.prefix,
            last_four: key.last_four,
            created_at: key.created_at,
            created_by: key.created_by,
            expires_at: key.terms.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
            earlier_end_at: key.earlier_end_at,
        }
    }
}

/// The answer that shows a secret, and what is kept of it for a repeated request.
pub(super) fn made(status: StatusCode, writer: &Writer, made: Made) -> Response {
    let key = KeyBody::new(made.key);
    let kept = MadeBody { key: key.clone(), secret: None };
    let shown = MadeBody { key, secret: made.secret.map(|secret| secret.expose().to_owned()) };
    let mut response = (status, writer.at(made.seq), Json(shown)).into_response();
    response.extensions_mut().insert(Kept(serde_json::to_vec(&kept).unwrap_or_default()));
    response
}
