//! `POST /api/auth/link`: somebody signs in by a link that is good once.

use axum::extract::State;
use axum::http::request::Parts as RequestParts;
use axum::response::Response;
use credentials::Secret;
use serde::Deserialize;
use store::identity::one_time_links::{self, LinkKind, Purpose};
use store::identity::sessions::Method;
use utoipa::ToSchema;

use super::begin::SignedInBody;
use super::error::SignInError;
use super::parts::SignIn;
use crate::http::extract::Json;
use crate::http::problem::{Problem, ProblemBody};

/// The secret of a link.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LinkSignIn)]
pub(super) struct LinkRequest {
    /// What stands behind the link's `#`.
    #[schema(value_type = String, min_length = 43, max_length = 43)]
    token: LinkToken,
}

/// A link's secret as somebody sends it.
#[derive(Debug, Deserialize)]
pub(super) struct LinkToken(String);

impl LinkToken {
    /// The secret. What is none of the form is no link.
    pub(super) fn secret(&self) -> Result<Secret, SignInError> {
        Secret::parse(&self.0).map_err(|_| SignInError::NoSuchLink)
    }
}

/// Signs in by a one-time link
///
/// Such a link is made at the command line (`usage-ledger admin link`), and is good for 15 minutes, once. The page that
/// it leads to sends its token here.
#[utoipa::path(
    post, path = "/api/auth/link", tag = "accounts",
    request_body = LinkRequest,
    responses(
        (status = 200, description = "Signed in", body = SignedInBody,
         headers(("Set-Cookie" = String, description = "The session"))),
        (status = 401, description = "The link is none, was used, or has ended", body = ProblemBody),
        (status = 403, description = "The account is suspended", body = ProblemBody),
        (status = 429, description = "Too many failed credentials from this address", body = ProblemBody),
    ),
    security(())
)]
pub(super) async fn link(
    State(sign_in): State<SignIn>,
    parts: RequestParts,
    Json(body): Json<LinkRequest>,
) -> Result<Response, Problem> {
    sign_in.must_be_own_page(&parts)?;
    let address = sign_in.0.auth.address(&parts);
    let secret = body.token.secret().map_err(|error| sign_in.failed(error, address))?;
    let (hash, now) = (secret.hash(), sign_in.now());
    let taking =
        sign_in.in_transaction(async |tx| Ok(one_time_links::take(tx, &hash, LinkKind::SignIn, now).await?));
    let Some(Purpose::SignIn(user)) = taking.await? else {
        return Err(sign_in.failed(SignInError::NoSuchLink, address).into());
    };
    let begun = sign_in.begin(user, Method::Link, &parts).await?;
    Ok(sign_in.signed_in(begun))
}
