//! Users' tokens of third parties: stored sealed, shown masked, used on the user's behalf, never given back.

mod audit;
mod create;
mod delete;
mod read;
mod test;

use std::str::FromStr;

use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use events::{Personal, SealedJson};
use ledger::UserId;
use serde::de::{Deserialize, Deserializer, Error};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use store::read::tokens::Token;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use vault::{SecretText, TokenKind, TokenNote, TokenRefused};

use crate::auth::Principal;
use crate::http::client::user_agent;
use crate::http::paging::PageLimit;
use crate::http::problem::{FieldError, Problem};
use crate::metering::sealer;
use crate::state::AppState;

/// A stored token, without what is in it.
#[derive(Debug, Serialize, ToSchema)]
struct TokenBody {
    id: Uuid,
    /// `github`, `openai`, `anthropic` or `gemini`.
    token_type: String,
    /// What the user calls it.
    token_name: Option<String>,
    /// What may be shown of it: a prefix and the last four characters, or nothing.
    masked: String,
    /// The same for the same token of the same user and type.
    fingerprint: String,
    /// What the user should hear about a token that was taken all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<Warning>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// Null until it was used.
    last_used: Option<DateTime<Utc>>,
}

/// What is odd about a token that was taken.
#[derive(Debug, Serialize, ToSchema)]
struct Warning {
    /// `unknown_format`.
    code: &'static str,
    detail: &'static str,
}

/// Whose tokens.
#[derive(Debug, DeriveDeserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OwnerQuery {
    /// Whose token; role admin only.
    user_id: Option<String>,
}

/// Whose list, and which page of it.
#[derive(Debug, DeriveDeserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Whose tokens; role admin only.
    user_id: Option<String>,
    /// Items a page, 1 to 500; 50 unless given.
    #[serde(default)]
    #[param(value_type = Option<u32>)]
    limit: PageLimit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl From<Token> for TokenBody {
    fn from(token: Token) -> Self {
        Self {
            id: token.id,
            token_type: token.token_type,
            token_name: token.token_name,
            masked: token.masked,
            fingerprint: token.fingerprint,
            warnings: Vec::new(),
            created_at: token.created_at,
            updated_at: token.updated_at,
            last_used: token.last_used,
        }
    }
}

impl From<TokenNote> for Warning {
    fn from(note: TokenNote) -> Self {
        match note {
            TokenNote::UnknownFormat => Self {
                code: "unknown_format",
                detail: "the token does not look like one of its type; formats change, so it was taken",
            },
        }
    }
}

/// A token's type, whose error does not repeat what was sent.
#[derive(Debug, Clone, Copy)]
struct Kind(TokenKind);

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = SecretText::deserialize(deserializer)?;
        TokenKind::from_str(text.expose()).map(Self).map_err(D::Error::custom)
    }
}

/// What a body of these routes must hold.
fn must_be(name: &str) -> &'static str {
    match name {
        "token_type" => "the token type must be one of github, openai, anthropic, gemini",
        "token" => "the token must be text",
        _ => "the name must be text of 1 to 255 bytes without control characters",
    }
}

/// Whether the token may be one of this kind; 422 says why not, and never what it was.
fn check(kind: TokenKind, token: &SecretText) -> Result<Vec<Warning>, Problem> {
    let refused = |refused: TokenRefused| {
        let code = match refused {
            TokenRefused::Empty => "empty",
            TokenRefused::TooLong => "too_long",
            TokenRefused::Whitespace | TokenRefused::Control => "invalid_character",
            TokenRefused::OtherKind { .. } => "other_type",
        };
        Problem::from(FieldError::at("/token", code, refused.to_string()))
    };
    Ok(kind.check(token).map_err(refused)?.map(Warning::from).into_iter().collect())
}

/// The name is kept and shown in the clear, so the token is no part of it.
fn check_name(name: &str, token: &SecretText) -> Result<(), Problem> {
    if name.contains(token.expose()) {
        let detail = "the name holds the token, which would be shown with it";
        return Err(FieldError::at("/token_name", "contains_token", detail).into());
    }
    Ok(())
}

/// What is known of the caller and what the user calls the token, sealed for the event of this id in the owner's chain.
/// An admin is named there as the actor and no more: the address of one person is not kept with another's data, where
/// that one reads it and only that one's erasure ends it.
async fn seal_personal(
    state: &AppState,
    owner: UserId,
    event_id: Uuid,
    client: &Client,
    token_name: Option<&str>,
) -> Result<Option<SealedJson<'static>>, Problem> {
    if client.principal.user_id != owner {
        return Ok(None);
    }
    let key = state.sealer().key(owner).await?;
    let personal = Personal {
        token_name: token_name.map(Into::into),
        ..Personal::of_client(Some(client.principal.address), client.user_agent.as_deref().map(Into::into))
    };
    sealer::seal(&key, &event_id.to_string(), &personal)
}

/// Who asks, and with what.
#[derive(Debug, Clone)]
struct Client {
    principal: Principal,
    user_agent: Option<String>,
}

impl Client {
    fn of(principal: Principal, parts: &Parts) -> Self {
        Self { principal, user_agent: user_agent(&parts.headers).map(std::borrow::Cow::into_owned) }
    }
}

/// The id in a path. Whatever is none names nothing, and is repeated nowhere.
fn token_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(text).map_err(|_| Problem::not_found())
}

/// These files' endpoints.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(create::router())
        .merge(read::router())
        .merge(delete::router())
        .merge(test::router())
        .merge(audit::router())
}
