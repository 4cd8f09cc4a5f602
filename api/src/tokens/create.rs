//! `POST /api/tokens`: a user hands over a token.

use std::borrow::Cow;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use events::{Body, Event, SealedJson, TokenStored};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use vault::{Fingerprint, OsEntropy, SecretText, TokenKind};

use super::{Client, Kind, TokenBody, Warning, check, check_name, must_be, seal_personal};
use crate::auth::UserOnly;
use crate::facts::position::LedgerSeq;
use crate::facts::writer::{PROJECTED_WITHIN, actor, record};
use crate::http::extract::{Json, NoQuery, Query, SecretFields, SecretJson, Text};
use crate::http::idempotency::{Attempt, KeyedRequest, Provisional};
use crate::http::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// A token to keep.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StoreRequest {
    /// `github`, `openai`, `anthropic` or `gemini`.
    #[schema(value_type = String)]
    token_type: Kind,
    /// The token, at most 4 KiB, without white space and control characters.
    #[schema(value_type = String, max_length = 4096, format = Password)]
    token: SecretText,
    /// What the user calls it; not the token, for it is shown.
    #[schema(value_type = Option<String>, max_length = 255)]
    token_name: Option<Text<255>>,
}

impl SecretFields for StoreRequest {
    const NAMES: &'static [&'static str] = &["token_type", "token", "token_name"];

    fn must_be(name: &str) -> &'static str {
        must_be(name)
    }
}

/// What is stored, once the body was found good.
struct NewToken {
    kind: TokenKind,
    token: SecretText,
    name: Option<String>,
    fingerprint: Fingerprint,
    warnings: Vec<Warning>,
}

/// Stores a token
///
/// Into the caller's own vault, whose role must be user. A second one of a type takes the place of the first. It is
/// sealed before it is recorded, and no endpoint returns it. At most 10 tokens stored and deleted a minute.
#[utoipa::path(
    post, path = "/api/tokens", tag = "tokens",
    request_body = StoreRequest,
    responses(
        (status = 201, description = "Stored", body = TokenBody),
        (status = 200, description = "Stored in the place of another one of its type, whose id is gone", body = TokenBody),
        (status = 202, description = "Recorded, not projected yet; a retry with the same key tells more", body = TokenBody),
        (status = 403, description = "Only a user stores tokens, and only its own", body = ProblemBody),
        (status = 413, description = "The body is larger than 16 KiB", body = ProblemBody),
        (status = 422, description = "A field or a parameter is wrong, or the token is one of another type", body = ProblemBody),
        (status = 429, description = "More than 10 tokens stored and deleted a minute", body = ProblemBody),
        (status = 503, description = "It cannot be sealed or recorded now", body = ProblemBody),
    )
)]
async fn store(
    caller: UserOnly,
    State(state): State<AppState>,
    // A `?user_id=` that changes nothing would put the token into another vault than was meant.
    Query(NoQuery {}): Query<NoQuery>,
    SecretJson { body, parts }: SecretJson<StoreRequest>,
) -> Result<Response, Problem> {
    let StoreRequest { token_type: Kind(kind), token, token_name } = body;
    let warnings = check(kind, &token)?;
    let name = token_name.map(Text::into_string);
    check_name(name.as_deref().unwrap_or_default(), &token)?;
    state.token_changes().check(caller.user_id)?;
    let key = state.sealer().key(caller.user_id).await?;
    let fingerprint = key.fingerprint(kind, &token);
    // What a request is recognised by is kept for a day: not a hash of the token, which could be guessed at.
    let told = format!("{kind}\0{fingerprint}\0{}", name.as_deref().unwrap_or_default());
    let request = KeyedRequest::of(&parts, told.as_bytes())?;
    let client = Client::of(*caller, &parts);
    let new = NewToken { kind, token, name, fingerprint, warnings };
    let keys = state.idempotency().clone();
    keys.run(
        &caller,
        request,
        move |attempt| async move { record_token(&state, &client, new, attempt).await },
    )
    .await
}

async fn record_token(
    state: &AppState,
    client: &Client,
    new: NewToken,
    attempt: Attempt,
) -> Result<Response, Problem> {
    let owner = client.principal.user_id;
    let key = state.sealer().key(owner).await?;
    // The event's id is the token's: a retry of the request stores the same token.
    let id = attempt.event_id;
    let began = Instant::now();
    let sealed = key.seal_token(new.kind, id, &new.token, &OsEntropy);
    let sealed = sealed.map_err(|error| Problem::internal(&error))?;
    metrics::histogram!("vault_seal_seconds").record(began.elapsed());
    let masked = vault::mask(&new.token);
    drop(new.token);
    let body = Body::TokenStored(TokenStored {
        token_id: id,
        token_type: Cow::Borrowed(new.kind.as_str()),
        sealed: SealedJson::new(sealed.to_json()).map_err(|error| Problem::internal(&error))?,
        masked: Cow::Borrowed(&masked),
        fingerprint: Cow::Owned(new.fingerprint.to_string()),
        actor: actor(&client.principal),
        personal: seal_personal(state, owner, id, client, new.name.as_deref()).await?,
    });
    let seq = record(state, &Event::by_api(id, owner, attempt.at, body)).await?;
    let status = outcome(state, client, attempt, seq).await?;
    let stored = TokenBody {
        id,
        token_type: new.kind.as_str().to_owned(),
        token_name: new.name,
        masked,
        fingerprint: new.fingerprint.to_string(),
        warnings: new.warnings,
        created_at: attempt.at,
        updated_at: attempt.at,
        last_used: None,
    };
    let mut response = (status, LedgerSeq::at(state, seq), Json(stored)).into_response();
    if status == StatusCode::ACCEPTED {
        // Whether another token was there is not known yet. A retry will know: its event has the same id and is applied
        // once.
        response.extensions_mut().insert(Provisional);
    }
    Ok(response)
}

/// Whether another token was there, which the log's order decides.
async fn outcome(
    state: &AppState,
    client: &Client,
    attempt: Attempt,
    seq: u64,
) -> Result<StatusCode, Problem> {
    if !state.watermark().wait_for(seq, PROJECTED_WITHIN).await {
        return Ok(StatusCode::ACCEPTED);
    }
    let mut conn = state.pool().acquire().await.map_err(store::Error::from)?;
    let (owner, id) = (client.principal.user_id, attempt.event_id);
    Ok(match store::read::token_audit::replaced_by(&mut conn, owner, id, seq).await? {
        Some(Some(_)) => StatusCode::OK,
        Some(None) => StatusCode::CREATED,
        None => StatusCode::ACCEPTED,
    })
}

/// This file's endpoints.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(store))
}
