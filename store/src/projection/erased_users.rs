//! Users' ends as the log has them (`erased_users`), and what follows from them in the rows of calls.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::projection::personal_tables::{self, Holds};
use crate::projection::usage_rows::RowKey;
use crate::{Error, Position};

/// Rows that one statement blanks.
const ROWS_AT_ONCE: u32 = 5_000;

/// An erasure as the log has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erasure {
    /// The event.
    pub event_id: Uuid,
    /// Time of the decision.
    pub erased_at: DateTime<Utc>,
    /// Position in the log.
    pub position: Position,
}

/// Notes what the log says; the first one counts. From here on the erasure is open.
pub async fn record(conn: &mut PgConnection, user: UserId, erasure: &Erasure) -> Result<(), Error> {
    let (log_seq, log_idx) = erasure.position.columns();
    let recorded = sqlx::query!(
        "INSERT INTO erased_users (user_id, event_id, erased_at, log_seq, log_idx) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (user_id) DO NOTHING",
        user.get(),
        erasure.event_id,
        erasure.erased_at,
        log_seq,
        log_idx,
    )
    .execute(&mut *conn)
    .await?;
    if recorded.rows_affected() == 1 {
        sqlx::query!(
            "INSERT INTO open_erasures (user_id) VALUES ($1) ON CONFLICT (user_id) DO NOTHING",
            user.get()
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// Those of the users who are erased.
pub async fn among(conn: &mut PgConnection, users: &[UserId]) -> Result<HashSet<UserId>, Error> {
    let users: Vec<Uuid> = users.iter().map(|user| user.get()).collect();
    let erased = sqlx::query_scalar!("SELECT user_id FROM erased_users WHERE user_id = ANY ($1)", &users)
        .fetch_all(conn)
        .await?;
    Ok(erased.into_iter().map(UserId::new).collect())
}

/// So many open erasures are compared with a batch's users in memory; of more, the batch's users are looked up.
const MAX_OPEN: usize = 1_000;

/// Those of the users whose erasure is open. Of any other erased user every process has forgotten the data key, and
/// nothing that was sealed under it opens.
pub async fn open_among(conn: &mut PgConnection, users: &[UserId]) -> Result<HashSet<UserId>, Error> {
    let max = i64::try_from(MAX_OPEN + 1).unwrap_or(i64::MAX);
    let open =
        sqlx::query_scalar!("SELECT user_id FROM open_erasures LIMIT $1", max).fetch_all(&mut *conn).await?;
    if open.len() > MAX_OPEN {
        return among(conn, users).await;
    }
    let open: HashSet<UserId> = open.into_iter().map(UserId::new).collect();
    Ok(users.iter().copied().filter(|user| open.contains(user)).collect())
}

/// The user's erasure, once it is projected.
pub async fn find(conn: &mut PgConnection, user: UserId) -> Result<Option<Erasure>, Error> {
    let row = sqlx::query!(
        "SELECT event_id, erased_at, log_seq, log_idx FROM erased_users WHERE user_id = $1",
        user.get()
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Erasure {
        event_id: row.event_id,
        erased_at: row.erased_at,
        position: Position::from_columns(row.log_seq, row.log_idx),
    }))
}

/// Blanks the address and user agent of these calls.
pub async fn blank_calls(conn: &mut PgConnection, calls: &[RowKey]) -> Result<(), Error> {
    let (users, times, ids) = RowKey::columns(calls);
    sqlx::query!(
        "UPDATE api_usage u SET ip_address = NULL, user_agent = NULL
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::uuid[]) AS given (user_id, created_at, id)
         WHERE u.user_id = given.user_id AND u.created_at = given.created_at AND u.id = given.id
           AND (u.ip_address IS NOT NULL OR u.user_agent IS NOT NULL)",
        &users,
        &times,
        &ids,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Blanks all calls of the user in the projection that the connection sees, months that are not attached included.
pub async fn blank_all_calls(conn: &mut PgConnection, user: UserId) -> Result<(), Error> {
    let schema: String = sqlx::query_scalar("SELECT current_schema()::text").fetch_one(&mut *conn).await?;
    for table in personal_tables::all(conn).await? {
        if table.holds == Holds::Calls && table.name.starts_with(&format!("{schema}.")) {
            let mut after = None;
            while let next @ Some(_) = table.blank(conn, user, after, ROWS_AT_ONCE).await?.next {
                after = next;
            }
        }
    }
    Ok(())
}
