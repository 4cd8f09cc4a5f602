//! `GET /api/tokens/audit`, `GET /api/tokens/{id}/audit`: who did what, when, from where.

use axum::extract::State;
use chrono::{DateTime, Utc};
use ledger::UserId;
use serde::Serialize;
use store::read::token_audit::Entry;
use utoipa::ToSchema;
use uuid::Uuid;

use super::parts::Tokens;
use super::request::token_id;
use crate::auth::{Auth, UserOrAdmin, needs};
use crate::facts::{AsOf, MinSeq, MinSeqHeader, Positions};
use crate::http::extract::{Json, OwnedListQuery, Path, Query};
use crate::http::paging::CursorScope;
use crate::http::problem::{Problem, ProblemBody};

/// A page of the audit, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Audit {
    items: Vec<AuditEntry>,
    /// Leads to the next page; null on the last.
    next_cursor: Option<String>,
    as_of: AsOf,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
struct AuditEntry {
    id: Uuid,
    created_at: DateTime<Utc>,
    /// `stored`, `deleted`, `used` or `erased`; of an API key `key_created` and the like.
    action: String,
    token_id: Option<Uuid>,
    token_type: Option<String>,
    token_name: Option<String>,
    /// Of a store: the token that it took the place of.
    replaced_id: Option<Uuid>,
    /// Of a use: what for.
    purpose: Option<String>,
    fingerprint: Option<String>,
    /// Who did it.
    actor: AuditActor,
    ip_address: Option<String>,
    user_agent: Option<String>,
    /// What binds the entry to the one before it: SHA-256(its hash ‖ SHA-256(the event's bytes)).
    hash: String,
    /// Where in the log it is; opaque.
    position: String,
}

/// Who did something.
#[derive(Debug, Serialize, ToSchema)]
struct AuditActor {
    /// `user`, `service`, `admin`, `operator` or `system`.
    kind: String,
    /// A user's UUID, or the name of a part of the system.
    id: String,
}

/// What was done with tokens
#[utoipa::path(
    get, path = "/api/tokens/audit", tag = "tokens",
    params(OwnedListQuery, MinSeqHeader),
    responses(
        (status = 200, body = Audit),
        (status = 429, description = "More than 10 reads a second", body = ProblemBody),
    )
)]
pub(super) async fn audit(
    caller: UserOrAdmin<needs::Tokens>,
    _seen: MinSeq,
    State(auth): State<Auth>,
    State(tokens): State<Tokens>,
    Query(query): Query<OwnedListQuery>,
) -> Result<Json<Audit>, Problem> {
    tokens.0.reads.check(caller.user_id)?;
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    page(&tokens, owner, None, &query).await.map(Json)
}

/// What was done with one token
///
/// A token that was replaced or deleted keeps its audit.
#[utoipa::path(
    get, path = "/api/tokens/{id}/audit", tag = "tokens",
    params(("id" = Uuid, Path), OwnedListQuery, MinSeqHeader),
    responses(
        (status = 200, body = Audit),
        (status = 404, description = "There never was such a token, or it is another user's", body = ProblemBody),
        (status = 429, description = "More than 10 reads a second", body = ProblemBody),
    )
)]
pub(super) async fn token_audit(
    caller: UserOrAdmin<needs::Tokens>,
    _seen: MinSeq,
    State(auth): State<Auth>,
    State(tokens): State<Tokens>,
    Path(id): Path<String>,
    Query(query): Query<OwnedListQuery>,
) -> Result<Json<Audit>, Problem> {
    tokens.0.reads.check(caller.user_id)?;
    let id = token_id(&id)?;
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let audit = page(&tokens, owner, Some(id), &query).await?;
    if audit.items.is_empty() && query.cursor.is_none() {
        return Err(Problem::not_found());
    }
    Ok(Json(audit))
}

async fn page(
    tokens: &Tokens,
    owner: UserId,
    token: Option<Uuid>,
    query: &OwnedListQuery,
) -> Result<Audit, Problem> {
    let of_token = token.map(Uuid::into_bytes).unwrap_or_default();
    let scope = CursorScope::new(&[b"token_audit", owner.get().as_bytes(), &of_token]);
    let before = query.cursor.as_deref().map(|cursor| scope.open_position(cursor)).transpose()?;
    let (mut conn, as_of) = tokens.0.projections.snapshot().await?;
    let mut entries =
        store::read::token_audit::page(&mut conn, owner, token, before, query.limit.to_read()).await?;
    drop(conn);
    let next_cursor = query.limit.cut(&mut entries).map(|last| scope.seal_position(last.position));
    let items =
        entries.into_iter().map(|entry| AuditEntry::new(entry, tokens.0.projections.positions())).collect();
    Ok(Audit { items, next_cursor, as_of })
}

impl AuditEntry {
    fn new(entry: Entry, positions: Positions) -> Self {
        Self {
            id: entry.event_id,
            created_at: entry.created_at,
            action: entry.action,
            token_id: entry.token_id,
            token_type: entry.token_type,
            token_name: entry.token_name,
            replaced_id: entry.replaced_id,
            purpose: entry.purpose,
            fingerprint: entry.fingerprint,
            actor: AuditActor { kind: entry.actor_kind, id: entry.actor_id },
            ip_address: entry.ip_address,
            user_agent: entry.user_agent,
            hash: entry.hash,
            position: positions.encode(entry.position.seq),
        }
    }
}
