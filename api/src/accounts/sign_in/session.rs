//! The session of a browser: `GET /api/auth/session`, `POST /api/auth/logout`.

use axum::Json;
use axum::extract::State;
use axum::http::request::Parts as RequestParts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use events::AccountAction;
use serde::Serialize;
use store::identity::credential_changes::Changed;
use store::identity::sessions;
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::SignInError;
use super::parts::SignIn;
use crate::accounts::by::By;
use crate::auth::{Role, SigningIn, csrf_token};
use crate::http::problem::{Problem, ProblemBody};
use crate::http::site::Cookie;

/// Whose session it is, and what it may do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BrowserSession)]
pub(super) struct SessionBody {
    /// Its id.
    session_id: Uuid,
    /// The user.
    user_id: Uuid,
    /// `user` or `admin`.
    role: Role,
    /// Whether the second factor is still to be shown.
    needs_second_factor: bool,
    /// Whether the user has a second factor. An admin without one changes nothing but its own account.
    has_second_factor: bool,
    /// To be sent as `X-CSRF-Token` with all that changes something.
    csrf_token: String,
}

/// Who is signed in
///
/// Answers the session's cookie alone, also while its second factor is still to be shown.
#[utoipa::path(
    get, path = "/api/auth/session", tag = "accounts",
    responses((status = 200, description = "The session", body = SessionBody))
)]
pub(super) async fn session(
    caller: SigningIn,
    State(sign_in): State<SignIn>,
    headers: HeaderMap,
) -> Result<Json<SessionBody>, Problem> {
    let secret = sign_in.0.site.secret(&headers, Cookie::Session).ok_or(SignInError::NoSuchSession)?;
    Ok(Json(SessionBody {
        session_id: caller.session.id,
        user_id: caller.user_id.get(),
        role: caller.role,
        needs_second_factor: caller.session.is_pending,
        has_second_factor: caller.session.has_factor,
        csrf_token: csrf_token(&secret),
    }))
}

/// Signs out
///
/// The session ends on every instance within a second.
#[utoipa::path(
    post, path = "/api/auth/logout", tag = "accounts",
    responses(
        (status = 204, description = "Signed out"),
        (status = 403, description = "The header X-CSRF-Token is missing", body = ProblemBody),
    )
)]
pub(super) async fn logout(
    caller: SigningIn,
    State(sign_in): State<SignIn>,
    request: RequestParts,
) -> Result<Response, Problem> {
    let by = By::user(caller.user_id, caller.address, &request.headers);
    sign_in.end_session(&caller, caller.session.id, &by).await?;
    let cookie = sign_in.0.site.clear(Cookie::Session);
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
}

impl SignIn {
    /// Ends a session of the caller's. It is of no use any more, whatever stands in the way of the log.
    pub(super) async fn end_session(
        &self,
        caller: &crate::auth::Principal,
        session: Uuid,
        by: &By,
    ) -> Result<(), SignInError> {
        let user = caller.user_id;
        let is_ended = self.in_transaction(async |tx| Ok(sessions::end(tx, user, session).await?)).await?;
        if !is_ended {
            return Err(SignInError::NoSuchSession);
        }
        self.0.credentials.forget(Changed::Session(session));
        self.0.log.record(user, AccountAction::SignedOut, None, Some(session), by).await?;
        Ok(())
    }
}
