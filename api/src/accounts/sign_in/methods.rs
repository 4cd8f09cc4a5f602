//! `GET /api/auth/methods`: the ways to sign in that there are.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::parts::SignIn;
use crate::config::Registration;

/// Ways to sign in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SignInMethods)]
pub(super) struct MethodsBody {
    /// Who may make an account: `closed`, `invite` or `open`.
    registration: &'static str,
    /// Whether people may sign in with GitHub.
    github: bool,
}

/// Ways to sign in
#[utoipa::path(
    get, path = "/api/auth/methods", tag = "accounts",
    responses((status = 200, description = "What a page for signing in offers", body = MethodsBody)),
    security(())
)]
pub(super) async fn methods(State(sign_in): State<SignIn>) -> Json<MethodsBody> {
    Json(MethodsBody {
        registration: match sign_in.0.registration {
            Registration::Closed => "closed",
            Registration::Invite => "invite",
            Registration::Open => "open",
        },
        github: sign_in.0.github.is_some(),
    })
}
