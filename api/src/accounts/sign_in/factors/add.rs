//! `POST /api/auth/factors`: a second factor is set up.

use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use credentials::{TOTP_SECRET_BYTES, Totp, qr_svg};
use serde::{Deserialize, Serialize};
use store::identity::people::{self, IdentityKind};
use store::identity::second_factors::{self, MAX_FACTORS};
use utoipa::ToSchema;
use uuid::Uuid;
use vault::{Entropy as _, OsEntropy};
use zeroize::Zeroizing;

use crate::accounts::sign_in::SignIn;
use crate::accounts::sign_in::error::SignInError;
use crate::accounts::sign_in::parts::hold;
use crate::accounts::sign_in::password_text::PasswordText;
use crate::auth::SignedIn;
use crate::http::extract::{SecretFields, SecretJson, Text};
use crate::http::problem::{Problem, ProblemBody};

/// The name that authenticator apps show beside the account's, where `PUBLIC_URL` says no other.
const ISSUER: &str = "usage-ledger";

/// A second factor to set up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewFactor)]
pub(super) struct AddRequest {
    /// `totp`: codes of an authenticator app (RFC 6238).
    #[schema(value_type = String)]
    kind: Kind,
    /// What it is called; `Authenticator` unless given.
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 255)]
    name: Option<Text<255>>,
    /// The password, if there is one.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password)]
    current_password: Option<PasswordText>,
}

/// Kind of a factor.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Kind;

impl TryFrom<String> for Kind {
    type Error = <Self as FromStr>::Err;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Kind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == super::TOTP { Ok(Self) } else { Err("the kind is totp") }
    }
}

impl SecretFields for AddRequest {
    const NAMES: &'static [&'static str] = &["kind", "name", "current_password"];

    fn must_be(name: &str) -> &'static str {
        if name == "kind" { "it must be totp" } else { "it must be text" }
    }
}

/// A second factor that is being set up.
#[derive(Serialize, ToSchema)]
#[schema(as = FactorSetup)]
pub(super) struct SetupBody {
    /// Its id.
    factor_id: Uuid,
    /// The secret for an app, in base32, for who cannot scan the picture.
    secret: String,
    /// The secret for an app, as an address.
    otpauth_url: String,
    /// The address as a QR code, an SVG picture.
    qr_svg: String,
}

/// Sets a second factor up
///
/// It is asked for from the moment at which a first code confirms it (`POST /api/auth/factors/{id}/confirm`). Its
/// secret is shown here and nowhere again. One that was never confirmed is replaced.
#[utoipa::path(
    post, path = "/api/auth/factors", tag = "accounts",
    request_body = AddRequest,
    responses(
        (status = 201, description = "To be confirmed", body = SetupBody),
        (status = 401, description = "The password is another one", body = ProblemBody),
        (status = 403, description = "The sign-in was too long ago", body = ProblemBody),
        (status = 409, description = "There are five already", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
        (status = 429, description = "Too many tries", body = ProblemBody),
    )
)]
pub(super) async fn add(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
    SecretJson { body, .. }: SecretJson<AddRequest>,
) -> Result<(StatusCode, Json<SetupBody>), Problem> {
    let user = caller.user_id;
    let AddRequest { kind: Kind, name, current_password } = body;
    sign_in.0.changes.check(user)?;
    sign_in.must_know_password(&caller, current_password.as_ref(), caller.address).await?;
    let mut secret = Zeroizing::new([0; TOTP_SECRET_BYTES]);
    OsEntropy.fill(&mut *secret).map_err(SignInError::from)?;
    let id = sign_in.0.log.new_id();
    let sealed = sign_in.seal_factor(user, id, &*secret).await?;
    let name = name.map_or_else(|| "Authenticator".to_owned(), Text::into_string);
    let now = sign_in.now();
    let email = sign_in
        .in_transaction(async |tx| {
            hold(tx, user).await?;
            let confirmed = second_factors::confirmed(tx, user).await?.len();
            if i64::try_from(confirmed).is_ok_and(|confirmed| confirmed >= MAX_FACTORS) {
                return Err(SignInError::TooManyFactors);
            }
            second_factors::insert(tx, user, id, &name, &sealed, now).await?;
            Ok(people::identity(tx, user, IdentityKind::Email).await?)
        })
        .await?;
    let account = email.map_or_else(|| user.to_string(), |email| email.label);
    let issuer = sign_in.0.site.public_url().and_then(|url| url.host_str()).unwrap_or(ISSUER);
    let otpauth_url = Totp::new(*secret).otpauth_url(issuer, &account);
    let qr_svg = qr_svg(&otpauth_url).map_err(|error| Problem::internal(&error))?;
    let secret = secret_of(&otpauth_url);
    Ok((StatusCode::CREATED, Json(SetupBody { factor_id: id, secret, otpauth_url, qr_svg })))
}

/// The secret as it stands in the address, in base32.
fn secret_of(otpauth_url: &str) -> String {
    let query = otpauth_url.split_once('?').map_or("", |(_, query)| query);
    let secret = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "secret");
    secret.map(|(_, value)| value.into_owned()).unwrap_or_default()
}
