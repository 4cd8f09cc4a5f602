//! What happened to accounts and who did it, and credentials that named nobody.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

/// Something that was done to a user's account, or to what the user has here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// The user.
    pub user: UserId,
    /// Position of the event in the log.
    pub position: Position,
    /// Time of the act.
    pub at: DateTime<Utc>,
    /// The event's type without its prefix and version.
    pub action: &'static str,
    /// By what means, or to what.
    pub method: Option<String>,
    /// The session, factor, token or API key.
    pub object_id: Option<Uuid>,
    /// Role in which somebody acted.
    pub actor_kind: &'static str,
    /// Id of the actor.
    pub actor_id: String,
    /// Address of the actor.
    pub ip_address: Option<String>,
    /// User agent of the actor.
    pub user_agent: Option<String>,
}

/// Stores the acts; those that are there already stay as they are.
pub async fn insert(conn: &mut PgConnection, acts: &[Act]) -> Result<(), Error> {
    fn column<T>(acts: &[Act], of: impl Fn(&Act) -> T) -> Vec<T> {
        acts.iter().map(of).collect()
    }
    if acts.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO security_log (user_id, log_seq, log_idx, at, action, method, object_id, actor_kind, actor_id,
                                   ip_address, user_agent)
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::integer[], $4::timestamptz[], $5::text[], $6::text[],
                              $7::uuid[], $8::text[], $9::text[], $10::text[], $11::text[])
         ON CONFLICT (user_id, log_seq, log_idx) DO NOTHING",
        &column(acts, |act| act.user.get()),
        &column(acts, |act| act.position.columns().0),
        &column(acts, |act| act.position.columns().1),
        &column(acts, |act| act.at),
        &column(acts, |act| act.action.to_owned()),
        &column(acts, |act| act.method.clone()) as &[Option<String>],
        &column(acts, |act| act.object_id) as &[Option<Uuid>],
        &column(acts, |act| act.actor_kind.to_owned()),
        &column(acts, |act| act.actor_id.clone()),
        &column(acts, |act| act.ip_address.clone()) as &[Option<String>],
        &column(acts, |act| act.user_agent.clone()) as &[Option<String>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Blanks what is personal in the user's rows.
pub async fn blank(conn: &mut PgConnection, user: UserId) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE security_log SET ip_address = NULL, user_agent = NULL
         WHERE user_id = $1 AND (ip_address IS NOT NULL OR user_agent IS NOT NULL)",
        user.get()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Credentials that were refused within a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthFailuresRow {
    /// Position in the log.
    pub position: Position,
    /// Start of the minute.
    pub window_start: DateTime<Utc>,
    /// Their numbers by reason and network, as JSON.
    pub counts: String,
    /// Number of those beyond.
    pub other: u64,
}

/// Stores the failures; those that are there already stay as they are.
pub async fn insert_auth_failures(conn: &mut PgConnection, rows: &[AuthFailuresRow]) -> Result<(), Error> {
    let windows: Vec<DateTime<Utc>> = rows.iter().map(|row| row.window_start).collect();
    let (seqs, idxs): (Vec<i64>, Vec<i32>) = rows.iter().map(|row| row.position.columns()).unzip();
    let counts: Vec<&str> = rows.iter().map(|row| row.counts.as_str()).collect();
    let others: Vec<i64> = rows.iter().map(|row| i64::try_from(row.other).unwrap_or(i64::MAX)).collect();
    sqlx::query!(
        "INSERT INTO auth_failures (window_start, log_seq, log_idx, counts, other)
         SELECT window_start, log_seq, log_idx, counts::json, other
         FROM UNNEST($1::timestamptz[], $2::bigint[], $3::int[], $4::text[], $5::bigint[])
             AS given (window_start, log_seq, log_idx, counts, other)
         ON CONFLICT (window_start, log_seq, log_idx) DO NOTHING",
        &windows,
        &seqs,
        &idxs,
        &counts as &[&str],
        &others,
    )
    .execute(conn)
    .await?;
    Ok(())
}
