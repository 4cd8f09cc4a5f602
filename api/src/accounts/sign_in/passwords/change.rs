//! `POST /api/users/me/password`: somebody who is signed in sets another password.

use std::net::IpAddr;

use axum::extract::State;
use axum::response::Response;
use credentials::password::Verified;
use events::AccountAction;
use serde::Deserialize;
use store::identity::credential_changes::Changed;
use store::identity::passwords;
use store::identity::people::{self, IdentityKind};
use store::identity::sessions;
use utoipa::ToSchema;

use super::login::tried;
use crate::accounts::by::By;
use crate::accounts::sign_in::begin::{Begun, SignedInBody};
use crate::accounts::sign_in::error::SignInError;
use crate::accounts::sign_in::parts::{SignIn, hold, new_secret};
use crate::accounts::sign_in::password_text::PasswordText;
use crate::auth::{Principal, SignedIn};
use crate::http::extract::{SecretFields, SecretJson};
use crate::http::problem::{Problem, ProblemBody};

/// Another password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PasswordChange)]
pub(in crate::accounts::sign_in) struct PasswordRequest {
    /// The password until now, if there is one.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password)]
    current_password: Option<PasswordText>,
    /// The new password: 8 characters at least, hard to guess.
    #[schema(value_type = String, format = Password)]
    password: PasswordText,
}

impl SecretFields for PasswordRequest {
    const NAMES: &'static [&'static str] = &["current_password", "password"];

    fn must_be(_: &str) -> &'static str {
        "it must be text"
    }
}

/// Sets another password
///
/// The session gets another secret, and all others of the user end. Whoever has no password yet must have signed in
/// within the last 15 minutes.
#[utoipa::path(
    post, path = "/api/users/me/password", tag = "accounts",
    request_body = PasswordRequest,
    responses(
        (status = 200, description = "Set", body = SignedInBody,
         headers(("Set-Cookie" = String, description = "The session"))),
        (status = 401, description = "The password until now is another one", body = ProblemBody),
        (status = 403, description = "The sign-in was too long ago", body = ProblemBody),
        (status = 422, description = "The password is weak", body = ProblemBody),
        (status = 429, description = "Too many tries", body = ProblemBody),
        (status = 503, description = "Too many people are signing in", body = ProblemBody),
    )
)]
pub(in crate::accounts::sign_in) async fn change(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
    SecretJson { body, parts }: SecretJson<PasswordRequest>,
) -> Result<Response, Problem> {
    sign_in.0.changes.check(caller.user_id)?;
    let user = caller.user_id;
    sign_in.must_know_password(&caller, body.current_password.as_ref(), caller.address).await?;
    let mut conn = sign_in.connection().await?;
    let email = people::identity(&mut conn, user, IdentityKind::Email).await?;
    drop(conn);
    let words = [email.as_ref().map_or("", |email| email.label.as_str())];
    let phc = sign_in.0.hasher.choose(&body.password, &words).await?;
    let by = By::user(user, caller.address, &parts.headers);
    sign_in.0.log.record(user, AccountAction::PasswordChanged, Some("password"), None, &by).await?;
    let (secret, now) = (new_secret().map_err(SignInError::from)?, sign_in.now());
    let is_there = sign_in.in_transaction(async |tx| {
        hold(tx, user).await?;
        passwords::set(tx, user, &phc, now).await?;
        sessions::end_all(tx, user, Some(caller.session.id)).await?;
        Ok(sessions::renew(tx, caller.session.id, &secret.hash(), None).await?)
    });
    let is_there = is_there.await?;
    sign_in.0.credentials.forget(Changed::User(user));
    if !is_there {
        return Err(SignInError::NoSuchSession.into());
    }
    Ok(sign_in.signed_in(Begun::of(user, secret)))
}

impl SignIn {
    /// Refuses who does not know the password until now; where there is none, who signed in too long ago.
    pub(in crate::accounts::sign_in) async fn must_know_password(
        &self,
        caller: &Principal,
        given: Option<&PasswordText>,
        address: IpAddr,
    ) -> Result<(), SignInError> {
        let mut conn = self.connection().await?;
        let phc = passwords::hash(&mut conn, caller.user_id).await?;
        drop(conn);
        let Some(phc) = phc else {
            return self.must_be_recent(caller);
        };
        let account = tried(b"password", caller.user_id.get().as_bytes());
        self.be_patient(&self.0.tries, &account, Some(caller.user_id), address).await?;
        let given = given.ok_or(SignInError::Wrong)?.given()?;
        match self.0.hasher.verify(given, Some(phc)).await? {
            Verified::Yes { .. } => {
                self.0.tries.succeeded(&account, address);
                Ok(())
            }
            Verified::No => Err(self.failed(SignInError::Wrong, address)),
        }
    }
}
