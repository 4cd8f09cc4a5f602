//! `POST /api/auth/register`: somebody makes an account.

use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts as RequestParts;
use axum::response::{IntoResponse, Response};
use credentials::Address;
use events::AccountAction;
use ledger::UserId;
use serde::Deserialize;
use store::identity::one_time_links::{self, LinkKind, Purpose};
use store::identity::passwords;
use store::identity::people::{self, Identity, IdentityKind};
use store::identity::sessions::Method;
use utoipa::ToSchema;

use crate::accounts::by::By;
use crate::accounts::sign_in::begin::SignedInBody;
use crate::accounts::sign_in::error::SignInError;
use crate::accounts::sign_in::link::LinkToken;
use crate::accounts::sign_in::parts::SignIn;
use crate::accounts::sign_in::password_text::PasswordText;
use crate::config::Registration;
use crate::http::extract::{SecretFields, SecretJson, Text};
use crate::http::problem::{Problem, ProblemBody};

/// A registration is answered at a multiple of this, so that its time does not tell whether the address was free.
const ANSWERED_AT: Duration = Duration::from_millis(250);

/// Who registers: with an invitation, or, where everybody may, with an address.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Registration)]
pub(in crate::accounts::sign_in) struct RegisterRequest {
    /// Address by which to sign in; that of the invitation if there is one.
    #[serde(default)]
    email: Option<String>,
    /// What stands behind the `#` of an invitation's link.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    invitation: Option<LinkToken>,
    /// A password: 8 characters at least, hard to guess.
    #[schema(value_type = String, format = Password)]
    password: PasswordText,
    /// What to call the user.
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 255)]
    name: Option<Text<255>>,
}

impl SecretFields for RegisterRequest {
    const NAMES: &'static [&'static str] = &["email", "invitation", "password", "name"];

    fn must_be(_: &str) -> &'static str {
        "it must be text"
    }
}

/// Makes an account
///
/// With an invitation, the account is made and signed in. Without one (`REGISTRATION=open`), the answer is the same
/// whether the address was free or not: whoever has the address signs in with the password next.
#[utoipa::path(
    post, path = "/api/auth/register", tag = "accounts",
    request_body = RegisterRequest,
    responses(
        (status = 200, description = "Made by invitation, and signed in", body = SignedInBody,
         headers(("Set-Cookie" = String, description = "The session"))),
        (status = 202, description = "Made, unless the address had an account"),
        (status = 401, description = "The invitation is none, was used, or has ended", body = ProblemBody),
        (status = 403, description = "Accounts are made by invitation only, or not at all", body = ProblemBody),
        (status = 409, description = "The invited address has an account", body = ProblemBody),
        (status = 422, description = "The address is none, or the password is weak", body = ProblemBody),
        (status = 429, description = "Too many tries", body = ProblemBody),
        (status = 503, description = "Too many people are signing in", body = ProblemBody),
    ),
    security(())
)]
pub(in crate::accounts::sign_in) async fn register(
    State(sign_in): State<SignIn>,
    SecretJson { body, parts }: SecretJson<RegisterRequest>,
) -> Result<Response, Problem> {
    sign_in.must_be_own_page(&parts)?;
    match (&body.invitation, sign_in.0.registration) {
        (_, Registration::Closed) | (None, Registration::Invite) => {
            Err(SignInError::RegistrationClosed.into())
        }
        (Some(invitation), Registration::Invite | Registration::Open) => {
            let user = sign_in.invited(&body, invitation, &parts).await?;
            let begun = sign_in.begin(user, Method::Password, &parts).await?;
            Ok(sign_in.signed_in(begun))
        }
        (None, Registration::Open) => {
            let began = Instant::now();
            sign_in.anybody(&body, &parts).await?;
            let slots = began.elapsed().as_millis() / ANSWERED_AT.as_millis() + 1;
            let slots = u32::try_from(slots).unwrap_or(u32::MAX);
            tokio::time::sleep_until((began + ANSWERED_AT.saturating_mul(slots)).into()).await;
            Ok(StatusCode::ACCEPTED.into_response())
        }
    }
}

impl SignIn {
    /// Makes an account of an invited address.
    async fn invited(
        &self,
        body: &RegisterRequest,
        invitation: &LinkToken,
        request: &RequestParts,
    ) -> Result<UserId, SignInError> {
        let address = self.0.auth.address(request);
        let failed = |error| self.failed(error, address);
        let hash = invitation.secret().map_err(failed)?.hash();
        if body.email.is_some() {
            let detail = "an invitation is for its own address; leave the field out".to_owned();
            return Err(SignInError::Field { field: "email", code: "unexpected", detail });
        }
        let now = self.now();
        let mut conn = self.connection().await?;
        if !one_time_links::is_good(&mut conn, &hash, LinkKind::Invitation, now).await? {
            return Err(failed(SignInError::NoSuchLink));
        }
        drop(conn);
        let phc = self.0.hasher.choose(&body.password, &words(body, "")).await?;
        let user = UserId::new(self.0.log.new_id());
        self.0
            .log
            .record(user, AccountAction::Registered, Some("invitation"), None, &By::nobody_yet(user))
            .await?;
        self.in_transaction(async |tx| {
            let taken = one_time_links::take(tx, &hash, LinkKind::Invitation, now).await?;
            let Some(Purpose::Invitation { email, label }) = taken else {
                return Err(SignInError::NoSuchLink);
            };
            let identity =
                Identity { kind: IdentityKind::Email, subject: email, label, verified_at: Some(now) };
            let name = body.name.as_ref().map(Text::as_str);
            if !people::register(tx, user, &identity, name, now).await? {
                return Err(SignInError::AddressTaken);
            }
            passwords::set(tx, user, &phc, now).await?;
            Ok(user)
        })
        .await
    }

    /// Makes an account of whatever address, unless that has one: nobody has shown that it is theirs.
    async fn anybody(&self, body: &RegisterRequest, request: &RequestParts) -> Result<(), SignInError> {
        let address = self.0.auth.address(request);
        let missing = || SignInError::Field {
            field: "email",
            code: "missing",
            detail: "the field email is missing".to_owned(),
        };
        let email = Address::parse(body.email.as_deref().ok_or_else(missing)?);
        let email = email.map_err(|error| SignInError::Field {
            field: "email",
            code: "invalid",
            detail: error.to_string(),
        })?;
        // Every one is work, and an account for ever: an address has no more of them than it may fail to sign in.
        if let Some(retry_after_s) = self.0.auth.note_cost(address) {
            return Err(SignInError::TooManyTries { retry_after_s });
        }
        let phc = self.0.hasher.choose(&body.password, &words(body, email.written())).await?;
        let mut conn = self.connection().await?;
        if people::user_of(&mut conn, IdentityKind::Email, email.canonical()).await?.is_some() {
            return Ok(());
        }
        drop(conn);
        let (user, now) = (UserId::new(self.0.log.new_id()), self.now());
        self.0
            .log
            .record(user, AccountAction::Registered, Some("password"), None, &By::nobody_yet(user))
            .await?;
        let identity = Identity {
            kind: IdentityKind::Email,
            subject: email.canonical().to_owned(),
            label: email.written().to_owned(),
            verified_at: None,
        };
        let name = body.name.as_ref().map(Text::as_str);
        let registering = self.in_transaction(async |tx| {
            if people::register(tx, user, &identity, name, now).await? {
                passwords::set(tx, user, &phc, now).await?;
            }
            Ok(())
        });
        registering.await
    }
}

/// What whoever knows the user would try as a password.
fn words<'a>(body: &'a RegisterRequest, email: &'a str) -> [&'a str; 2] {
    [email, body.name.as_ref().map_or("", Text::as_str)]
}
