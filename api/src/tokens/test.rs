//! `POST /api/tokens/{id}/test`, `POST /api/tokens/test`: whether a token works, as its provider says.

use std::borrow::Cow;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use events::{Body, Event, TokenUsed};
use serde::Deserialize;
use store::read::stored_tokens::StoredToken;
use utoipa::ToSchema;
use uuid::Uuid;
use vault::{Sealed, SecretText, TokenKind};

use super::error::TokensError;
use super::parts::Tokens;
use super::request::{Client, Kind, check, must_be, token_id};
use super::test_answer::TokenTest;
use crate::auth::{UserOnly, needs};
use crate::http::extract::{Json, NoQuery, Path, Query, SecretFields, SecretJson};
use crate::http::idempotency::Idempotency;
use crate::http::problem::{Problem, ProblemBody};
use crate::metering::sealer::SealError;

/// Purpose that the audit names for a use by a test.
const PURPOSE: &str = "test";

/// A token to ask about.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TestRequest {
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
pub(super) async fn test_stored(
    caller: UserOnly<needs::Tokens>,
    State(tokens): State<Tokens>,
    State(idempotency): State<Idempotency>,
    Path(id): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    parts: Parts,
) -> Result<Response, Problem> {
    let token = tokens.find(caller.user_id, token_id(&id)?).await?;
    tokens.0.tests.check(caller.user_id)?;
    let client = Client::of(*caller, &parts);
    let work = async move {
        let seq = tokens.record_use(&client, &token).await?;
        let (kind, secret) = tokens.open(&client, token.id).await?;
        let answer = TokenTest::from(tokens.0.providers.test(kind, &secret).await);
        Ok((StatusCode::OK, tokens.0.writer.at(seq), Json(answer)).into_response())
    };
    idempotency.to_its_end(work).await
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
pub(super) async fn test_given(
    caller: UserOnly<needs::Tokens>,
    State(tokens): State<Tokens>,
    Query(NoQuery {}): Query<NoQuery>,
    SecretJson { body, .. }: SecretJson<TestRequest>,
) -> Result<Json<TokenTest>, Problem> {
    let TestRequest { token_type: Kind(kind), token } = body;
    check(kind, &token).map_err(TokensError::from)?;
    tokens.0.tests.check(caller.user_id)?;
    Ok(Json(tokens.0.providers.test(kind, &token).await.into()))
}

impl Tokens {
    /// Puts the use on disk. Whoever goes on without it would use a token behind its owner's back.
    async fn record_use(&self, client: &Client, token: &StoredToken) -> Result<u64, TokensError> {
        let owner = client.principal.user_id;
        let event_id = self.0.writer.new_id();
        let body = Body::TokenUsed(TokenUsed {
            token_id: token.id,
            token_type: Cow::Borrowed(&token.token_type),
            purpose: Cow::Borrowed(PURPOSE),
            actor: client.principal.actor(),
            personal: self.seal_personal(owner, event_id, client, None).await?,
        });
        let seq = self.0.writer.record(&Event::by_api(event_id, owner, self.0.writer.now(), body)).await?;
        metrics::counter!("token_uses_total", "type" => token.token_type.clone()).increment(1);
        Ok(seq)
    }

    /// Opens a stored token, as it is now: after a deletion was answered nobody uses it. Whatever is wrong with it, the
    /// answer is the same.
    async fn open(&self, client: &Client, id: Uuid) -> Result<(TokenKind, SecretText), TokensError> {
        let owner = client.principal.user_id;
        let data_key = self.0.sealer.data_key(owner).await.map_err(SealError::from)?;
        let mut conn = self.0.projections.connection().await?;
        let stored = store::read::stored_tokens::sealed(&mut conn, owner, id).await?;
        let stored = stored.ok_or(TokensError::NoSuchToken)?;
        drop(conn);
        let began = Instant::now();
        let opened = stored.token_type.parse().ok().and_then(|kind: TokenKind| {
            let sealed = Sealed::from_json(&stored.sealed).ok()?;
            Some((kind, data_key.open_token(kind, id, &sealed).ok()?))
        });
        metrics::histogram!("vault_open_seconds").record(began.elapsed());
        opened.ok_or_else(|| {
            tracing::error!(token_id = %id, "a stored token does not open: it is not as it was sealed");
            TokensError::Unreadable
        })
    }
}
