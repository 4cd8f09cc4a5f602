//! Sessions of a user: `GET /api/users/me/sessions`, `DELETE /api/users/me/sessions`, `DELETE
//! /api/users/me/sessions/{id}`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts as RequestParts;
use chrono::{DateTime, Utc};
use events::AccountAction;
use serde::{Deserialize, Serialize};
use store::identity::credential_changes::Changed;
use store::identity::sessions::{self, Session};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::error::SignInError;
use super::parts::SignIn;
use crate::accounts::by::By;
use crate::auth::SignedIn;
use crate::http::extract::{Path, Query};
use crate::http::problem::{Problem, ProblemBody};

/// A user's sessions.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sessions)]
pub(super) struct SessionsBody {
    /// The newest first, 50 at most.
    sessions: Vec<SessionEntry>,
}

/// One of a user's sessions.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionEntry)]
pub(super) struct SessionEntry {
    /// Its id.
    session_id: Uuid,
    /// Whether it is the one that asks.
    is_current: bool,
    /// How its user signed in: `password`, `github` or `link`.
    method: &'static str,
    /// Whether the second factor is still to be shown.
    needs_second_factor: bool,
    /// Address at which it was made.
    address: String,
    /// Browser by which it was made, if it said so.
    user_agent: Option<String>,
    /// Time at which it was made.
    created_at: DateTime<Utc>,
    /// Time of its last use, give or take a minute.
    last_used_at: DateTime<Utc>,
    /// Its end, however much it is used.
    ends_at: DateTime<Utc>,
}

/// Sessions to end.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct EndQuery {
    /// `true` keeps the session that asks.
    #[serde(default)]
    others: bool,
}

/// The caller's sessions
#[utoipa::path(
    get, path = "/api/users/me/sessions", tag = "accounts",
    responses((status = 200, description = "The sessions that have not ended", body = SessionsBody))
)]
pub(super) async fn list(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
) -> Result<Json<SessionsBody>, Problem> {
    let now = sign_in.now();
    let idle_since = sign_in.0.credentials.sessions().lifetime().idle_since(now);
    let mut conn = sign_in.connection().await?;
    let sessions = sessions::list(&mut conn, caller.user_id, now, idle_since).await?;
    let entry = |session: Session| SessionEntry {
        session_id: session.id,
        is_current: session.id == caller.session.id,
        method: session.method.as_str(),
        needs_second_factor: session.is_pending,
        address: session.address,
        user_agent: session.user_agent,
        created_at: session.created_at,
        last_used_at: session.last_used_at,
        ends_at: session.ends_at,
    };
    Ok(Json(SessionsBody { sessions: sessions.into_iter().map(entry).collect() }))
}

/// Ends a session of the caller's
#[utoipa::path(
    delete, path = "/api/users/me/sessions/{id}", tag = "accounts",
    params(("id" = Uuid, Path, description = "The session")),
    responses(
        (status = 204, description = "Ended, on every instance within a second"),
        (status = 404, description = "There is none of this id", body = ProblemBody),
    )
)]
pub(super) async fn end(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
    Path(id): Path<String>,
    request: RequestParts,
) -> Result<StatusCode, Problem> {
    let id = Uuid::try_parse(&id).map_err(|_| SignInError::NoSuchSession)?;
    let by = By::user(caller.user_id, caller.address, &request.headers);
    sign_in.end_session(&caller, id, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Signs the caller out everywhere
#[utoipa::path(
    delete, path = "/api/users/me/sessions", tag = "accounts",
    params(EndQuery),
    responses((status = 204, description = "Ended, on every instance within a second"))
)]
pub(super) async fn end_all(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
    Query(query): Query<EndQuery>,
    request: RequestParts,
) -> Result<StatusCode, Problem> {
    let by = By::user(caller.user_id, caller.address, &request.headers);
    sign_in.end_sessions(&caller, query.others.then_some(caller.session.id), &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl SignIn {
    async fn end_sessions(
        &self,
        caller: &SignedIn,
        except: Option<Uuid>,
        by: &By,
    ) -> Result<(), SignInError> {
        let user = caller.user_id;
        self.in_transaction(async |tx| Ok(sessions::end_all(tx, user, except).await?)).await?;
        self.0.credentials.forget(Changed::User(user));
        self.0.log.record(user, AccountAction::SignedOut, None, None, by).await?;
        Ok(())
    }
}
