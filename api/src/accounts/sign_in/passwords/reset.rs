//! `POST /api/auth/reset`: somebody sets another password by a link.

use axum::extract::State;
use axum::response::Response;
use events::AccountAction;
use ledger::UserId;
use serde::Deserialize;
use store::identity::credential_changes::Changed;
use store::identity::one_time_links::{self, LinkKind, Purpose};
use store::identity::people::{self, IdentityKind};
use store::identity::sessions::{self, Method};
use store::identity::{passwords, second_factors};
use utoipa::ToSchema;

use crate::accounts::by::By;
use crate::accounts::sign_in::begin::SignedInBody;
use crate::accounts::sign_in::error::SignInError;
use crate::accounts::sign_in::link::LinkToken;
use crate::accounts::sign_in::parts::{SignIn, hold};
use crate::accounts::sign_in::password_text::PasswordText;
use crate::http::extract::{SecretFields, SecretJson};
use crate::http::problem::{Problem, ProblemBody};

/// Another password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PasswordReset)]
pub(in crate::accounts::sign_in) struct ResetRequest {
    /// What stands behind the link's `#`.
    #[schema(value_type = String, min_length = 43, max_length = 43)]
    token: LinkToken,
    /// The new password: 8 characters at least, hard to guess.
    #[schema(value_type = String, format = Password)]
    password: PasswordText,
}

impl SecretFields for ResetRequest {
    const NAMES: &'static [&'static str] = &["token", "password"];

    fn must_be(_: &str) -> &'static str {
        "it must be text"
    }
}

/// Sets another password by a link
///
/// All sessions of the user end. If nobody had shown before that the account's address is its user's, whoever has the
/// link does so now, and what others may have set up ends: second factors, other ways to sign in, API keys.
#[utoipa::path(
    post, path = "/api/auth/reset", tag = "accounts",
    request_body = ResetRequest,
    responses(
        (status = 200, description = "Set, and signed in but for the second factor perhaps", body = SignedInBody,
         headers(("Set-Cookie" = String, description = "The session"))),
        (status = 401, description = "The link is none, was used, or has ended", body = ProblemBody),
        (status = 403, description = "The account is suspended", body = ProblemBody),
        (status = 422, description = "The password is weak", body = ProblemBody),
        (status = 429, description = "Too many tries", body = ProblemBody),
        (status = 503, description = "Too many people are signing in", body = ProblemBody),
    ),
    security(())
)]
pub(in crate::accounts::sign_in) async fn reset(
    State(sign_in): State<SignIn>,
    SecretJson { body, parts }: SecretJson<ResetRequest>,
) -> Result<Response, Problem> {
    sign_in.must_be_own_page(&parts)?;
    let address = sign_in.0.auth.address(&parts);
    let failed = |error| sign_in.failed(error, address);
    let hash = body.token.secret().map_err(failed)?.hash();
    let mut conn = sign_in.connection().await?;
    if !one_time_links::is_good(&mut conn, &hash, LinkKind::PasswordReset, sign_in.now()).await? {
        return Err(failed(SignInError::NoSuchLink).into());
    }
    drop(conn);
    let phc = sign_in.0.hasher.choose(&body.password, &[]).await?;
    let (user, was_unproven) = sign_in.reset_password(&hash, &phc).await?;
    let by = By::user(user, address, &parts.headers);
    if was_unproven {
        sign_in.0.keys.registry().revoke_all(user, &by).await?;
    }
    sign_in.0.log.record(user, AccountAction::PasswordChanged, Some("link"), None, &by).await?;
    let begun = sign_in.begin(user, Method::Link, &parts).await?;
    Ok(sign_in.signed_in(begun))
}

impl SignIn {
    /// Sets the password of the link's user, and ends all that was signed in. Answers whether nobody had shown before
    /// that the address is the user's.
    async fn reset_password(
        &self,
        hash: &credentials::Hash,
        phc: &str,
    ) -> Result<(UserId, bool), SignInError> {
        let now = self.now();
        let (user, was_unproven) = self
            .in_transaction(async |tx| {
                let taken = one_time_links::take(tx, hash, LinkKind::PasswordReset, now).await?;
                let Some(Purpose::PasswordReset(user)) = taken else { return Err(SignInError::NoSuchLink) };
                hold(tx, user).await?;
                passwords::set(tx, user, phc, now).await?;
                let was_unproven = people::verify_email(tx, user, now).await?;
                if was_unproven {
                    people::remove(tx, user, IdentityKind::GitHub).await?;
                    second_factors::remove_all(tx, user).await?;
                }
                one_time_links::end_all(tx, user).await?;
                sessions::end_all(tx, user, None).await?;
                Ok((user, was_unproven))
            })
            .await?;
        self.0.credentials.forget(Changed::User(user));
        Ok((user, was_unproven))
    }
}
