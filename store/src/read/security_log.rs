//! What was done to a user's account, and what an admin did.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

/// An entry of the security log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position of the event in the log.
    pub position: Position,
    /// The user whom it is about.
    pub user: UserId,
    /// Time of the act.
    pub at: DateTime<Utc>,
    /// What was done.
    pub action: String,
    /// By what means, or to what.
    pub method: Option<String>,
    /// The session, factor, token or API key.
    pub object_id: Option<Uuid>,
    /// Role in which somebody acted.
    pub actor_kind: String,
    /// Id of the actor.
    pub actor_id: String,
    /// Address of the actor.
    pub ip_address: Option<String>,
    /// User agent of the actor.
    pub user_agent: Option<String>,
}

/// The acts on `owner`, and those of `owner` as an admin on whomever, before a position: the newest first, at most
/// `limit`. Either half is read in an index's order, and no further than that.
pub async fn page(
    conn: &mut PgConnection,
    owner: UserId,
    before: Option<Position>,
    limit: u32,
) -> Result<Vec<Entry>, Error> {
    let before = before.map(Position::columns);
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT log_seq AS "log_seq!", log_idx AS "log_idx!", user_id AS "user_id!", at AS "at!",
                  action AS "action!", method, object_id, actor_kind AS "actor_kind!", actor_id AS "actor_id!",
                  ip_address, user_agent
           FROM ((SELECT * FROM security_log
                  WHERE user_id = $1 AND ($2::bigint IS NULL OR (log_seq, log_idx) < ($2, $3))
                  ORDER BY log_seq DESC, log_idx DESC LIMIT $4)
                 UNION ALL
                 (SELECT * FROM security_log
                  WHERE actor_kind = 'admin' AND actor_id = $5 AND user_id <> $1
                    AND ($2::bigint IS NULL OR (log_seq, log_idx) < ($2, $3))
                  ORDER BY log_seq DESC, log_idx DESC LIMIT $4)) both_halves
           ORDER BY log_seq DESC, log_idx DESC LIMIT $4"#,
        owner.get(),
        before.map(|(seq, _)| seq),
        before.map(|(_, idx)| idx),
        i64::from(limit),
        owner.to_string()
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Entry::from).collect())
}

struct Row {
    log_seq: i64,
    log_idx: i32,
    user_id: Uuid,
    at: DateTime<Utc>,
    action: String,
    method: Option<String>,
    object_id: Option<Uuid>,
    actor_kind: String,
    actor_id: String,
    ip_address: Option<String>,
    user_agent: Option<String>,
}

impl From<Row> for Entry {
    fn from(row: Row) -> Self {
        Self {
            position: Position::from_columns(row.log_seq, row.log_idx),
            user: UserId::new(row.user_id),
            at: row.at,
            action: row.action,
            method: row.method,
            object_id: row.object_id,
            actor_kind: row.actor_kind,
            actor_id: row.actor_id,
            ip_address: row.ip_address,
            user_agent: row.user_agent,
        }
    }
}
