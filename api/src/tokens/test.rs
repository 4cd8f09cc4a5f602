//! `POST /api/tokens/{id}/test`, `POST /api/tokens/test`: whether a token works, as its provider says.

use std::borrow::Cow;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use events::{Body, Event, TokenUsed};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;
use vault::{Sealed, SecretText, TokenKind};

use super::{Client, Kind, check, must_be, seal_personal, token_id};
use crate::auth::UserOnly;
use crate::facts::position::LedgerSeq;
use crate::facts::writer::{actor, record};
use crate::http::extract::{Json, NoQuery, Path, Query, SecretFields, SecretJson};
use crate::http::problem::{Code, Problem, ProblemBody};
use crate::providers::TokenTest;
use crate::state::AppState;

/// What a use for a test is called in the audit.
const PURPOSE: &str = "test";

/// A token to ask about.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TestRequest {
    /// `github`, `openai`, `anthropic` or `gemini`.
    #[schema(value_type = String)]
    token_type: Kind,
    /// The token, at most 4 KiB, without white space and control characters.
    #[schema(value_type = String, max_length = 4096, format = Password)]
    token: SecretText,
}

impl SecretFields for TestRequest {
    const NAMES: &'static [&'static str] = &["token_type", "token"];

    fn must_be(name: &str) -> &'static str {
        must_be(name)
    }
}

/// Asks whether a stored token works
///
/// The use is on disk in the audit before the token is read and opened. One that was deleted or replaced in between is
/// not used any more: the answer is 404, and the audit names a use that came to nothing. At most 10 tests a minute a
/// user.
#[utoipa::path(
    post, path = "/api/tokens/{id}/test", tag = "tokens",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "What the provider says", body = TokenTest),
        (status = 404, description = "There is none, or it is another user's", body = ProblemBody),
        (status = 409, description = "The stored token cannot be opened: it is not as it was stored", body = ProblemBody),
        (status = 422, description = "There is a parameter", body = ProblemBody),
        (status = 429, description = "More than 10 tests a minute", body = ProblemBody),
        (status = 503, description = "The use cannot be recorded now, so there is none", body = ProblemBody),
    )
)]
async fn test_stored(
    caller: UserOnly,
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    parts: Parts,
) -> Result<Response, Problem> {
    let id = token_id(&id)?;
    let mut conn = state.pool().acquire().await.map_err(store::Error::from)?;
    let known = store::read::tokens::get(&mut conn, caller.user_id, id).await?;
    drop(conn);
    let known = known.ok_or_else(Problem::not_found)?;
    state.token_tests().check(caller.user_id)?;
    let client = Client::of(*caller, &parts);
    let keys = state.idempotency().clone();
    keys.to_its_end(async move {
        let seq = record_use(&state, &client, id, &known.token_type).await?;
        let (kind, token) = open(&state, &client, id).await?;
        let answer = state.providers().test(kind, &token).await;
        Ok((StatusCode::OK, LedgerSeq::at(&state, seq), Json(answer)).into_response())
    })
    .await
}

/// Asks whether a token works
///
/// Nothing is stored. At most 10 tests a minute a user.
#[utoipa::path(
    post, path = "/api/tokens/test", tag = "tokens",
    request_body = TestRequest,
    responses(
        (status = 200, description = "What the provider says", body = TokenTest),
        (status = 413, description = "The body is larger than 16 KiB", body = ProblemBody),
        (status = 422, description = "A field or a parameter is wrong, or the token is one of another type", body = ProblemBody),
        (status = 429, description = "More than 10 tests a minute", body = ProblemBody),
    )
)]
async fn test_given(
    caller: UserOnly,
    State(state): State<AppState>,
    Query(NoQuery {}): Query<NoQuery>,
    SecretJson { body, .. }: SecretJson<TestRequest>,
) -> Result<Json<TokenTest>, Problem> {
    let TestRequest { token_type: Kind(kind), token } = body;
    check(kind, &token)?;
    state.token_tests().check(caller.user_id)?;
    Ok(Json(state.providers().test(kind, &token).await))
}

/// Puts the use on disk. Whoever goes on without it would use a token behind its owner's back.
async fn record_use(state: &AppState, client: &Client, id: Uuid, token_type: &str) -> Result<u64, Problem> {
    let owner = client.principal.user_id;
    let event_id = state.ids().event_id();
    let body = Body::TokenUsed(TokenUsed {
        token_id: id,
        token_type: Cow::Borrowed(token_type),
        purpose: Cow::Borrowed(PURPOSE),
        actor: actor(&client.principal),
        personal: seal_personal(state, owner, event_id, client, None).await?,
    });
    let seq = record(state, &Event::by_api(event_id, owner, state.clock().now(), body)).await?;
    metrics::counter!("token_uses_total", "type" => token_type.to_owned()).increment(1);
    Ok(seq)
}

/// Opens a stored token, as it is now: after a deletion was answered nobody uses it. Whatever is wrong with it, the
/// answer is the same.
async fn open(state: &AppState, client: &Client, id: Uuid) -> Result<(TokenKind, SecretText), Problem> {
    let owner = client.principal.user_id;
    let key = state.sealer().key(owner).await?;
    let mut conn = state.pool().acquire().await.map_err(store::Error::from)?;
    let stored = store::read::tokens::sealed(&mut conn, owner, id).await?.ok_or_else(Problem::not_found)?;
    drop(conn);
    let began = Instant::now();
    let opened = stored.token_type.parse().ok().and_then(|kind: TokenKind| {
        let sealed = Sealed::from_json(&stored.sealed).ok()?;
        Some((kind, key.open_token(kind, id, &sealed).ok()?))
    });
    metrics::histogram!("vault_open_seconds").record(began.elapsed());
    opened.ok_or_else(|| {
        tracing::error!(token_id = %id, "a stored token does not open: it is not as it was sealed");
        Problem::new(
            StatusCode::CONFLICT,
            Code::TokenUnreadable,
            "The stored token cannot be opened; store it again.",
        )
    })
}

/// This file's endpoints.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(test_given)).routes(routes!(test_stored))
}
