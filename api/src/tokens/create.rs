//! `POST /api/tokens`: a user hands over a token.

use std::borrow::Cow;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use events::{Body, Event, SealedJson, TokenStored};
use ledger::UserId;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;
use vault::{Fingerprint, OsEntropy, SecretText, TokenKind};

use super::body::{TokenBody, Warning};
use super::error::TokensError;
use super::parts::Tokens;
use super::request::{Client, Kind, check, check_name, must_be};
use crate::auth::{UserOnly, needs};
use crate::facts::Written;
use crate::http::extract::{Json, NoQuery, Query, SecretFields, SecretJson, Text};
use crate::http::idempotency::{Attempt, Idempotency, KeyHeader, KeyedRequest, Provisional};
use crate::http::problem::{Problem, ProblemBody};
use crate::metering::sealer::SealError;

/// A token to keep.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreRequest {
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

/// Token to be stored, once the body was found good.
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
    params(KeyHeader),
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
pub(super) async fn store(
    caller: UserOnly<needs::Tokens>,
    State(tokens): State<Tokens>,
    State(idempotency): State<Idempotency>,
    // A `?user_id=` that changes nothing would put the token into another vault than was meant.
    Query(NoQuery {}): Query<NoQuery>,
    SecretJson { body, parts }: SecretJson<StoreRequest>,
) -> Result<Response, Problem> {
    let StoreRequest { token_type: Kind(kind), token, token_name } = body;
    let warnings = check(kind, &token).map_err(TokensError::from)?;
    let name = token_name.map(Text::into_string);
    check_name(name.as_deref().unwrap_or_default(), &token)?;
    tokens.0.changes.check(caller.user_id)?;
    let data_key = tokens.0.sealer.data_key(caller.user_id).await?;
    let fingerprint = data_key.fingerprint(kind, &token);
    // What a request is recognised by is kept for a day: not a hash of the token, which could be guessed at.
    let told = format!("{kind}\0{fingerprint}\0{}", name.as_deref().unwrap_or_default());
    let request = KeyedRequest::of(&parts, told.as_bytes())?;
    let client = Client::of(*caller, &parts);
    let new = NewToken { kind, token, name, fingerprint, warnings };
    let work = move |attempt| async move { Ok(tokens.store(&client, new, attempt).await?) };
    idempotency.run(caller.key_owner(), request, work).await
}

impl Tokens {
    async fn store(&self, client: &Client, new: NewToken, attempt: Attempt) -> Result<Response, TokensError> {
        let owner = client.principal.user_id;
        // The event's id is the token's: a retry of the request stores the same token.
        let id = attempt.event_id;
        let sealed = self.seal(owner, id, &new).await?;
        let masked = vault::mask(&new.token);
        drop(new.token);
        let body = Body::TokenStored(TokenStored {
            token_id: id,
            token_type: Cow::Borrowed(new.kind.as_str()),
            sealed,
            masked: Cow::Borrowed(&masked),
            fingerprint: Cow::Owned(new.fingerprint.to_string()),
            actor: client.principal.actor(),
            personal: self.seal_personal(owner, id, client, new.name.as_deref()).await?,
        });
        let written = self.0.writer.write(&Event::by_api(id, owner, attempt.at, body)).await?;
        let replaced = self.replaced(owner, id, &written).await?;
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
        let status = match replaced {
            Some(true) => StatusCode::OK,
            Some(false) => StatusCode::CREATED,
            None => StatusCode::ACCEPTED,
        };
        let mut response = written.answer(status, Json(stored));
        if status == StatusCode::ACCEPTED {
            // Whether another token was there is not known yet. A retry will know: its event has the same id and is
            // applied once.
            response.extensions_mut().insert(Provisional);
        }
        Ok(response)
    }

    async fn seal(
        &self,
        owner: UserId,
        id: Uuid,
        new: &NewToken,
    ) -> Result<SealedJson<'static>, TokensError> {
        let data_key = self.0.sealer.data_key(owner).await.map_err(SealError::from)?;
        let began = Instant::now();
        let sealed = data_key.seal_token(new.kind, id, &new.token, &OsEntropy)?;
        metrics::histogram!("vault_seal_seconds").record(began.elapsed());
        Ok(SealedJson::new(sealed.to_json()).map_err(SealError::from)?)
    }

    /// Tells whether another token was there, which the log's order decides; none while that is not known.
    async fn replaced(
        &self,
        owner: UserId,
        id: Uuid,
        written: &Written,
    ) -> Result<Option<bool>, TokensError> {
        if !written.is_projected {
            return Ok(None);
        }
        let mut conn = self.0.projections.connection().await?;
        let replaced = store::read::token_audit::replaced_by(&mut conn, owner, id, written.seq).await?;
        Ok(replaced.map(|other| other.is_some()))
    }
}
