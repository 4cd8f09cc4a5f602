//! `POST /api/auth/browser-tokens`: a token for a page of the host's.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use credentials::{Scope, Scopes};
use ledger::{UserRef, WholeNumber};
use secrecy::ExposeSecret as _;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::SignInError;
use super::page_tokens::PageTokens;
use super::parts::SignIn;
use crate::auth::{Auth, Mint, Role, ServiceOrAdmin, mint, needs, page_scope};
use crate::http::extract::{Json, Text};
use crate::http::problem::{Problem, ProblemBody};

/// Time for which such a token is valid at most, in seconds.
const MAX_TTL_S: u64 = 3_600;

/// A token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BrowserTokenRequest)]
pub(super) struct BrowserTokenRequest {
    /// UUID or external id of the user whose page it is.
    #[schema(value_type = String, max_length = 255)]
    user: Text<255>,
    /// Time for which it is valid.
    #[schema(value_type = u64, minimum = 1, maximum = 3600)]
    ttl_seconds: WholeNumber<1>,
    /// What it may do: `read`, `upgrade`, `tokens`.
    #[schema(value_type = Vec<String>)]
    scopes: PageScopes,
}

/// Scopes of a token for a page.
#[derive(Debug)]
struct PageScopes(Scopes);

impl<'de> Deserialize<'de> for PageScopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        let scopes: Option<Vec<Scope>> = words.iter().map(|word| page_scope(word)).collect();
        let scopes = scopes.ok_or_else(|| D::Error::custom("a scope is one of read, upgrade, tokens"))?;
        Ok(Self(scopes.into_iter().collect()))
    }
}

/// A token for a page.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BrowserToken)]
pub(super) struct BrowserTokenBody {
    /// To be sent as `Authorization: Bearer …` by the page, from an origin of `CORS_ALLOWED_ORIGINS`.
    token: String,
    /// Its end.
    expires_at: DateTime<Utc>,
}

/// Makes a token for a page of the host's
///
/// For components that are embedded in the host's own pages: it acts as the user, within its scopes, for an hour at
/// most. It ends with its time, or when the user is suspended or erased.
#[utoipa::path(
    post, path = "/api/auth/browser-tokens", tag = "accounts",
    request_body = BrowserTokenRequest,
    responses(
        (status = 201, description = "Made", body = BrowserTokenBody),
        (status = 404, description = "There is no such user", body = ProblemBody),
        (status = 409, description = "The user was erased", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    )
)]
pub(super) async fn make(
    caller: ServiceOrAdmin<needs::Users>,
    State(auth): State<Auth>,
    State(sign_in): State<SignIn>,
    Json(body): Json<BrowserTokenRequest>,
) -> Result<(StatusCode, Json<BrowserTokenBody>), Problem> {
    let ttl_s = body.ttl_seconds.get();
    if !(1..=MAX_TTL_S).contains(&ttl_s) {
        let detail = format!("such a token is valid for 1 to {MAX_TTL_S} seconds");
        return Err(SignInError::Field { field: "ttl_seconds", code: "out_of_range", detail }.into());
    }
    let user = auth.resolve_or_provision(&caller, Some(body.user.as_str())).await?;
    let (ttl, now) = (Duration::from_secs(ttl_s), sign_in.now());
    let PageTokens { settings, keys } = &sign_in.0.page_tokens;
    let asked = Mint { subject: &UserRef::Id(user), role: Role::User, scopes: Some(body.scopes.0), ttl, now };
    let token = mint(settings, keys, &asked).map_err(|error| Problem::internal(&error))?;
    let body = BrowserTokenBody { token: token.expose_secret().to_owned(), expires_at: now + ttl };
    Ok((StatusCode::CREATED, Json(body)))
}
