//! `POST /api/auth/factors/verify`: the second factor is shown.

use axum::extract::State;
use axum::response::Response;
use credentials::RecoveryCode;
use events::AccountAction;
use serde::Deserialize;
use store::identity::second_factors;
use utoipa::ToSchema;

use crate::accounts::by::By;
use crate::accounts::sign_in::SignIn;
use crate::accounts::sign_in::begin::SignedInBody;
use crate::accounts::sign_in::error::SignInError;
use crate::accounts::sign_in::passwords::tried;
use crate::auth::SigningIn;
use crate::http::extract::{SecretFields, SecretJson};
use crate::http::problem::{Problem, ProblemBody};

/// A code of the app, or a recovery code.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SecondFactor)]
pub(super) struct VerifyRequest {
    /// Six digits.
    #[serde(default)]
    code: Option<String>,
    /// One of the codes that were shown when the factor was set up; it is good once.
    #[serde(default)]
    recovery_code: Option<String>,
}

impl SecretFields for VerifyRequest {
    const NAMES: &'static [&'static str] = &["code", "recovery_code"];

    fn must_be(_: &str) -> &'static str {
        "it must be text"
    }
}

/// Shows the second factor
///
/// A code is taken once, from its beginning until half a minute after its end. The session gets another secret, and may
/// do all that its user may. From one address an account has five tries, then each waits twice as long as the one
/// before; from all addresses together it has 30 an hour, to which those are not held from where its user has signed in
/// before.
#[utoipa::path(
    post, path = "/api/auth/factors/verify", tag = "accounts",
    request_body = VerifyRequest,
    responses(
        (status = 200, description = "Signed in", body = SignedInBody,
         headers(("Set-Cookie" = String, description = "The session"))),
        (status = 401, description = "The code is wrong, or was taken before", body = ProblemBody),
        (status = 409, description = "The session waits for none", body = ProblemBody),
        (status = 422, description = "One of the two fields must be there", body = ProblemBody),
        (status = 429, description = "Too many tries", body = ProblemBody),
    )
)]
pub(super) async fn verify(
    caller: SigningIn,
    State(sign_in): State<SignIn>,
    SecretJson { body, parts }: SecretJson<VerifyRequest>,
) -> Result<Response, Problem> {
    let (user, session) = (caller.user_id, caller.session);
    if !session.is_pending {
        return Err(Problem::conflict("This session waits for no second factor."));
    }
    let account = tried(b"factor", user.get().as_bytes());
    sign_in.be_patient(&sign_in.0.codes, &account, Some(user), caller.address).await?;
    let mut conn = sign_in.connection().await?;
    let is_right = match (&body.code, &body.recovery_code) {
        (Some(code), None) => {
            let factors = second_factors::confirmed(&mut conn, user).await?;
            drop(conn);
            sign_in.spend_code(user, &factors, code).await?.is_some()
        }
        (None, Some(text)) => match RecoveryCode::parse(text) {
            Ok(code) => second_factors::take_code(&mut conn, user, &code.hash(user.get())).await?,
            Err(_) => false,
        },
        (Some(_), Some(_)) | (None, None) => {
            let detail = "give either code or recovery_code".to_owned();
            return Err(SignInError::Field { field: "code", code: "missing", detail }.into());
        }
    };
    if !is_right {
        return Err(sign_in.failed(SignInError::Wrong, caller.address).into());
    }
    sign_in.0.codes.succeeded(&account, caller.address);
    let by = By::user(user, caller.address, &parts.headers);
    let method = session.method.as_str();
    sign_in.0.log.record(user, AccountAction::SignedIn, Some(method), Some(session.id), &by).await?;
    let begun = sign_in.complete(user, session.id, caller.address).await?;
    Ok(sign_in.signed_in(begun))
}
