//! The audit of a user's stored tokens and API keys. What happened to the account itself is in the security log.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::projection::audit_chain::Action;
use crate::{Error, Position};

/// A link of a user's audit chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position of the event in the log.
    pub position: Position,
    /// The event.
    pub event_id: Uuid,
    /// `stored`, `deleted`, `used`, `erased`, or what became of an API key: `key_created` and the like.
    pub action: String,
    /// The token, or the API key.
    pub token_id: Option<Uuid>,
    /// Its type; `api_key` of an API key.
    pub token_type: Option<String>,
    /// The user's name for it when it was stored.
    pub token_name: Option<String>,
    /// The token that a stored one took the place of.
    pub replaced_id: Option<Uuid>,
    /// Purpose of the use.
    pub purpose: Option<String>,
    /// Tells equal tokens of one user.
    pub fingerprint: Option<String>,
    /// Role in which somebody acted.
    pub actor_kind: String,
    /// Id of the actor.
    pub actor_id: String,
    /// Address of the actor.
    pub ip_address: Option<String>,
    /// User agent of the actor.
    pub user_agent: Option<String>,
    /// Time of the action.
    pub created_at: DateTime<Utc>,
    /// The hash that binds it to the entry before it: SHA-256 in hexadecimal digits.
    pub hash: String,
}

/// The entries of `owner` before a position, the newest first, at most `limit`; of one token, if it is given.
pub async fn page(
    conn: &mut PgConnection,
    owner: UserId,
    token: Option<Uuid>,
    before: Option<Position>,
    limit: u32,
) -> Result<Vec<Entry>, Error> {
    let before = before.map(Position::columns);
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT log_seq, log_idx, event_id, action, token_id, token_type, token_name, replaced_id, purpose,
                  fingerprint, actor_kind, actor_id, ip_address, user_agent, created_at, encode(hash, 'hex') AS "hash!"
           FROM token_audit
           WHERE user_id = $1 AND action = ANY($6) AND ($2::uuid IS NULL OR token_id = $2 OR replaced_id = $2)
             AND ($3::bigint IS NULL OR (log_seq, log_idx) < ($3, $4))
           ORDER BY log_seq DESC, log_idx DESC LIMIT $5"#,
        owner.get(),
        token,
        before.map(|(seq, _)| seq),
        before.map(|(_, idx)| idx),
        i64::from(limit),
        &Action::NAMES_BESIDE_ACCOUNTS as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Entry::from).collect())
}

/// The token whose place `owner`'s token of this id took when it was stored: `None` while that is not projected. The
/// event is at `seq` or, when an earlier try of the request published it, before.
pub async fn replaced_by(
    conn: &mut PgConnection,
    owner: UserId,
    event_id: Uuid,
    seq: u64,
) -> Result<Option<Option<Uuid>>, Error> {
    let replaced = sqlx::query_scalar!(
        "SELECT replaced_id FROM token_audit WHERE user_id = $1 AND log_seq <= $2 AND event_id = $3
         ORDER BY log_seq DESC, log_idx DESC LIMIT 1",
        owner.get(),
        crate::position::seq_to_column(seq),
        event_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(replaced)
}

struct Row {
    log_seq: i64,
    log_idx: i32,
    event_id: Uuid,
    action: String,
    token_id: Option<Uuid>,
    token_type: Option<String>,
    token_name: Option<String>,
    replaced_id: Option<Uuid>,
    purpose: Option<String>,
    fingerprint: Option<String>,
    actor_kind: String,
    actor_id: String,
    ip_address: Option<String>,
    user_agent: Option<String>,
    created_at: DateTime<Utc>,
    hash: String,
}

impl From<Row> for Entry {
    fn from(row: Row) -> Self {
        Self {
            position: Position::from_columns(row.log_seq, row.log_idx),
            event_id: row.event_id,
            action: row.action,
            token_id: row.token_id,
            token_type: row.token_type,
            token_name: row.token_name,
            replaced_id: row.replaced_id,
            purpose: row.purpose,
            fingerprint: row.fingerprint,
            actor_kind: row.actor_kind,
            actor_id: row.actor_id,
            ip_address: row.ip_address,
            user_agent: row.user_agent,
            created_at: row.created_at,
            hash: row.hash,
        }
    }
}
