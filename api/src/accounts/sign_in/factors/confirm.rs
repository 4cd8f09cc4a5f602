//! `POST /api/auth/factors/{id}/confirm`: a first code shows that the factor works.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use events::AccountAction;
use serde::{Deserialize, Serialize};
use store::identity::credential_changes::Changed;
use store::identity::second_factors;
use store::identity::sessions;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{hashes, new_codes, shown};
use crate::accounts::by::By;
use crate::accounts::sign_in::SignIn;
use crate::accounts::sign_in::begin::SignedInBody;
use crate::accounts::sign_in::error::SignInError;
use crate::accounts::sign_in::parts::hold;
use crate::accounts::sign_in::passwords::tried;
use crate::auth::SignedIn;
use crate::http::extract::{Path, SecretFields, SecretJson};
use crate::http::problem::{Problem, ProblemBody};

/// A code of the app.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FactorCode)]
pub(super) struct ConfirmRequest {
    /// Six digits.
    code: String,
}

impl SecretFields for ConfirmRequest {
    const NAMES: &'static [&'static str] = &["code"];

    fn must_be(_: &str) -> &'static str {
        "it must be text of six digits"
    }
}

/// The factor is asked for from now on.
#[derive(Serialize, ToSchema)]
#[schema(as = FactorConfirmed)]
pub(super) struct ConfirmedBody {
    /// The session, which has another secret now.
    #[serde(flatten)]
    session: SignedInBody,
    /// For who has none: codes that let in once each who has lost the factor. They are shown here and nowhere again.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_codes: Option<Vec<String>>,
}

/// Confirms a second factor
///
/// The code is spent by that. The session gets another secret, and all others of the user end.
#[utoipa::path(
    post, path = "/api/auth/factors/{id}/confirm", tag = "accounts",
    params(("id" = Uuid, Path, description = "The factor")),
    request_body = ConfirmRequest,
    responses(
        (status = 200, description = "Confirmed", body = ConfirmedBody,
         headers(("Set-Cookie" = String, description = "The session"))),
        (status = 401, description = "The code is wrong, or was taken before", body = ProblemBody),
        (status = 404, description = "There is no such factor to confirm", body = ProblemBody),
        (status = 429, description = "Too many tries", body = ProblemBody),
    )
)]
pub(super) async fn confirm(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
    Path(id): Path<String>,
    SecretJson { body, parts }: SecretJson<ConfirmRequest>,
) -> Result<Response, Problem> {
    let user = caller.user_id;
    let id = Uuid::try_parse(&id).map_err(|_| SignInError::NoSuchFactor)?;
    let account = tried(b"factor", user.get().as_bytes());
    sign_in.be_patient(&sign_in.0.codes, &account, Some(user), caller.address).await?;
    let mut conn = sign_in.connection().await?;
    let factors = second_factors::list(&mut conn, user).await?;
    drop(conn);
    let factor = factors.into_iter().find(|factor| factor.id == id && factor.confirmed_at.is_none());
    let factor = factor.ok_or(SignInError::NoSuchFactor)?;
    let totp = sign_in.open_factor(user, &factor).await?;
    let (codes, now) = (new_codes()?, sign_in.now());
    let Some(step) = totp.matched_step(&body.code, now.timestamp(), factor.last_step) else {
        return Err(sign_in.failed(SignInError::Wrong, caller.address).into());
    };
    sign_in.0.codes.succeeded(&account, caller.address);
    let by = By::user(user, caller.address, &parts.headers);
    sign_in.0.log.record(user, AccountAction::FactorAdded, Some(super::TOTP), Some(id), &by).await?;
    let confirming = sign_in.in_transaction(async |tx| {
        hold(tx, user).await?;
        if !second_factors::spend(tx, user, id, step, now).await? {
            return Err(SignInError::Wrong);
        }
        // Asked while the account is held: the last factor may have gone meanwhile, and its codes with it.
        let has_codes = second_factors::codes_left(tx, user).await? > 0;
        if !has_codes {
            second_factors::set_codes(tx, user, &hashes(&codes, user)).await?;
        }
        sessions::end_all(tx, user, Some(caller.session.id)).await?;
        Ok(!has_codes)
    });
    let is_given_codes = confirming.await?;
    sign_in.0.credentials.forget(Changed::User(user));
    let begun = sign_in.complete(user, caller.session.id, caller.address).await?;
    let cookie = sign_in.session_cookie(&begun);
    let body =
        ConfirmedBody { session: begun.into_body(), recovery_codes: is_given_codes.then(|| shown(&codes)) };
    Ok(([(header::SET_COOKIE, cookie)], axum::Json(body)).into_response())
}
