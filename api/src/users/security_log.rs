//! `GET /api/users/me/security-log`: what was done to an account, by whom, from where.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use store::read::security_log::Entry;
use utoipa::ToSchema;
use uuid::Uuid;

use super::parts::Users;
use crate::auth::{Auth, UserOrAdmin, needs};
use crate::facts::{AsOf, MinSeq, MinSeqHeader, Positions};
use crate::http::extract::{Json, OwnedListQuery, Query};
use crate::http::paging::CursorScope;
use crate::http::problem::{Problem, ProblemBody};

/// A page of the security log, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SecurityLog {
    items: Vec<SecurityLogEntry>,
    /// Leads to the next page; null on the last.
    next_cursor: Option<String>,
    as_of: AsOf,
}

/// Something that was done.
#[derive(Debug, Serialize, ToSchema)]
struct SecurityLogEntry {
    at: DateTime<Utc>,
    /// `signed_in`, `password_changed`, `api_key_created`, `plan_changed` and the like.
    action: String,
    /// By what means, or to what: `password`, `totp`, `suspended`; a plan's name, a month, the type of a token.
    method: Option<String>,
    /// The session, factor, token or API key.
    object_id: Option<Uuid>,
    /// The user to whom it was done: another one where an admin did it.
    user_id: Uuid,
    /// Who did it.
    actor: SecurityLogActor,
    /// From where, where the user did it.
    ip_address: Option<String>,
    user_agent: Option<String>,
    /// Where in the log it is; opaque.
    position: String,
}

/// Who did something.
#[derive(Debug, Serialize, ToSchema)]
struct SecurityLogActor {
    /// `user`, `service`, `admin`, `operator` or `system`.
    kind: String,
    /// A user's UUID, or the name of a part of the system.
    id: String,
}

/// What was done to an account
///
/// Of an admin it has also what that admin did to others. Uses of tokens are in `/api/tokens/audit`.
#[utoipa::path(
    get, path = "/api/users/me/security-log", tag = "users",
    params(OwnedListQuery, MinSeqHeader),
    responses(
        (status = 200, body = SecurityLog),
        (status = 429, description = "More than 10 reads a second", body = ProblemBody),
    )
)]
pub(super) async fn security_log(
    caller: UserOrAdmin<needs::NoKey>,
    _seen: MinSeq,
    State(auth): State<Auth>,
    State(users): State<Users>,
    Query(query): Query<OwnedListQuery>,
) -> Result<Json<SecurityLog>, Problem> {
    users.0.reads.check(caller.user_id)?;
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let scope = CursorScope::new(&[b"security_log", owner.get().as_bytes()]);
    let before = query.cursor.as_deref().map(|cursor| scope.open_position(cursor)).transpose()?;
    let (mut conn, as_of) = users.0.projections.snapshot().await?;
    let mut entries =
        store::read::security_log::page(&mut conn, owner, before, query.limit.to_read()).await?;
    drop(conn);
    let next_cursor = query.limit.cut(&mut entries).map(|last| scope.seal_position(last.position));
    let positions = users.0.projections.positions();
    let items = entries.into_iter().map(|entry| SecurityLogEntry::new(entry, positions)).collect();
    Ok(Json(SecurityLog { items, next_cursor, as_of }))
}

impl SecurityLogEntry {
    fn new(entry: Entry, positions: Positions) -> Self {
        Self {
            at: entry.at,
            action: entry.action,
            method: entry.method,
            object_id: entry.object_id,
            user_id: entry.user.get(),
            actor: SecurityLogActor { kind: entry.actor_kind, id: entry.actor_id },
            ip_address: entry.ip_address,
            user_agent: entry.user_agent,
            position: positions.encode(entry.position.seq),
        }
    }
}
