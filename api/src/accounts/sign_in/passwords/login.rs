//! `POST /api/auth/login`: somebody signs in by address and password.

use std::net::IpAddr;
use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use credentials::password::Verified;
use credentials::{Address, Hash};
use ledger::UserId;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use store::identity::{known_addresses, passwords, sessions::Method};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::accounts::sign_in::backoff::Backoff;
use crate::accounts::sign_in::begin::SignedInBody;
use crate::accounts::sign_in::error::SignInError;
use crate::accounts::sign_in::parts::SignIn;
use crate::accounts::sign_in::password_text::PasswordText;
use crate::http::client::party;
use crate::http::extract::{SecretFields, SecretJson};
use crate::http::problem::{Problem, ProblemBody};

/// Who signs in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Login)]
pub(in crate::accounts::sign_in) struct LoginRequest {
    /// The address of the account.
    email: String,
    /// Its password.
    #[schema(value_type = String, format = Password)]
    password: PasswordText,
}

impl SecretFields for LoginRequest {
    const NAMES: &'static [&'static str] = &["email", "password"];

    fn must_be(_: &str) -> &'static str {
        "it must be text"
    }
}

/// Signs in
///
/// Whether there is an account of the address is told by nothing: neither the answer nor its time. From one address an
/// account has five tries, then each waits twice as long as the one before, 15 minutes at most; from all addresses
/// together it has 100 an hour, to which those are not held from where its user has signed in before.
#[utoipa::path(
    post, path = "/api/auth/login", tag = "accounts",
    request_body = LoginRequest,
    responses(
        (status = 200, description = "Signed in, but for the second factor perhaps", body = SignedInBody,
         headers(("Set-Cookie" = String, description = "The session"))),
        (status = 401, description = "Address or password are wrong", body = ProblemBody),
        (status = 403, description = "The account is suspended, or another site's page asks", body = ProblemBody),
        (status = 422, description = "A field is missing", body = ProblemBody),
        (status = 429, description = "Too many tries", body = ProblemBody),
        (status = 503, description = "Too many people are signing in", body = ProblemBody),
    ),
    security(())
)]
pub(in crate::accounts::sign_in) async fn login(
    State(sign_in): State<SignIn>,
    SecretJson { body, parts }: SecretJson<LoginRequest>,
) -> Result<Response, Problem> {
    sign_in.must_be_own_page(&parts)?;
    let address = sign_in.0.auth.address(&parts);
    let user = sign_in.by_password(&body, address).await?;
    let begun = sign_in.begin(user, Method::Password, &parts).await?;
    Ok(sign_in.signed_in(begun))
}

impl SignIn {
    async fn by_password(&self, login: &LoginRequest, address: IpAddr) -> Result<UserId, SignInError> {
        // What is no address is nobody's, and takes as long to be found so.
        let email = Address::parse(&login.email);
        let name = email.as_ref().map_or("", |email| email.canonical());
        let account = tried(b"email", name.as_bytes());
        let mut conn = self.connection().await?;
        let found = passwords::of_email(&mut conn, name).await?;
        drop(conn);
        let (user, phc) = found.unzip();
        let phc = phc.flatten();
        self.be_patient(&self.0.tries, &account, user, address).await?;
        let password = login.password.given().map_err(|error| self.failed(error, address))?;
        let verified = self.0.hasher.verify(password.clone(), phc.clone()).await?;
        let (Some(user), Some(before), Verified::Yes { rehash }) = (user, phc, verified) else {
            return Err(self.failed(SignInError::Wrong, address));
        };
        self.0.tries.succeeded(&account, address);
        if rehash {
            let after = self.0.hasher.hash(password).await?;
            let mut conn = self.connection().await?;
            passwords::rehash(&mut conn, user, &before, &after).await?;
        }
        Ok(user)
    }

    /// Counts a try at an account, or refuses it until it is due. `user` is whose account it is, if anybody's.
    pub(in crate::accounts::sign_in) async fn be_patient(
        &self,
        tries: &Backoff,
        account: &Hash,
        user: Option<UserId>,
        address: IpAddr,
    ) -> Result<(), SignInError> {
        let wait = |retry_after_s| SignInError::TooManyTries { retry_after_s };
        tries.begin(*account, address, Instant::now()).map_err(wait)?;
        let Some(retry_after_s) = tries.is_used_up(account, Instant::now()) else { return Ok(()) };
        let user = user.unwrap_or_else(|| UserId::new(Uuid::nil()));
        let mut conn = self.connection().await?;
        let is_known = known_addresses::is_known(&mut conn, user, party(address)).await?;
        if is_known { Ok(()) } else { Err(wait(retry_after_s)) }
    }
}

/// What is tried: an account, by the kind of its name and the name.
pub(in crate::accounts::sign_in) fn tried(kind: &[u8], name: &[u8]) -> Hash {
    Sha256::new().chain_update(kind).chain_update([0]).chain_update(name).finalize().into()
}
