//! Users who are erased: what the log says (`erased_users`), and what is done about it in `public` and in the rows.
//!
//! The log's `user_erased` is the fact. Everything else follows from it and can be done again: the account becomes a
//! tombstone and the data keys are deleted ([`bury`]), then the calls' rows lose what the keys had opened.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

/// A user whom the log calls erased, with an account, data keys or rows that do not know it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Who.
    pub user: UserId,
    /// When it was decided.
    pub erased_at: DateTime<Utc>,
    /// The host's id, if the account still has one.
    pub external_id: Option<String>,
}

/// What is known of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erasure {
    /// The event.
    pub event_id: Uuid,
    /// When it was decided.
    pub erased_at: DateTime<Utc>,
    /// Where in the log it is.
    pub position: Position,
}

/// Notes what the log says; the first one counts.
pub async fn record(conn: &mut PgConnection, user: UserId, erasure: &Erasure) -> Result<(), Error> {
    let (log_seq, log_idx) = erasure.position.columns();
    sqlx::query!(
        "INSERT INTO erased_users (user_id, event_id, erased_at, log_seq, log_idx) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (user_id) DO NOTHING",
        user.get(),
        erasure.event_id,
        erasure.erased_at,
        log_seq,
        log_idx,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// All erased users.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<UserId>, Error> {
    let users = sqlx::query_scalar!("SELECT user_id FROM erased_users").fetch_all(conn).await?;
    Ok(users.into_iter().map(UserId::new).collect())
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

/// Erased users with whom something is left to do, `limit` at most.
pub async fn unfinished(conn: &mut PgConnection, limit: u32) -> Result<Vec<Unfinished>, Error> {
    let rows = sqlx::query!(
        "SELECT e.user_id, e.erased_at, u.external_id
         FROM erased_users e JOIN public.users u USING (user_id)
         WHERE u.status <> 'erased' OR u.blanked_at IS NULL
            OR EXISTS (SELECT FROM public.user_data_keys k WHERE k.user_id = e.user_id)
         ORDER BY e.log_seq, e.log_idx LIMIT $1",
        i64::from(limit)
    )
    .fetch_all(conn)
    .await?;
    let unfinished = rows.into_iter().map(|row| Unfinished {
        user: UserId::new(row.user_id),
        erased_at: row.erased_at,
        external_id: row.external_id,
    });
    Ok(unfinished.collect())
}

/// Makes the account a tombstone, destroys the data keys and whatever answers were kept for the user, and announces it
/// when the caller's transaction commits. Answers how many data keys there were. `external_id_hash` is for an account
/// whose external id was stored without its hash: the stored one counts, for the id may have changed since the caller
/// read it.
pub async fn bury(
    conn: &mut PgConnection,
    user: UserId,
    external_id_hash: Option<&[u8; 32]>,
    erased_at: DateTime<Utc>,
) -> Result<u64, Error> {
    // First the account: whoever makes a data key meanwhile holds a lock on it and is waited for.
    let external_id =
        sqlx::query_scalar!("SELECT external_id FROM public.users WHERE user_id = $1 FOR UPDATE", user.get())
            .fetch_optional(&mut *conn)
            .await?
            .flatten();
    sqlx::query!(
        "UPDATE public.users SET
             external_id_hash = CASE WHEN external_id IS NULL THEN external_id_hash
                                     ELSE COALESCE(external_id_hash, $2) END,
             external_id = NULL, email = NULL, name = NULL,
             erased_at = COALESCE(erased_at, $3), updated_at = GREATEST(updated_at, $3), status = 'erased'
         WHERE user_id = $1",
        user.get(),
        external_id_hash.map(<[u8; 32]>::as_slice),
        erased_at,
    )
    .execute(&mut *conn)
    .await?;
    // Kept answers, also those of others' requests that name the user in their path.
    sqlx::query!(
        "DELETE FROM public.idempotency_keys
         WHERE principal = $1 OR strpos(path, $1::uuid::text) > 0
            OR ($2::text IS NOT NULL AND path LIKE '/api/users/%' AND strpos(path, $2) > 0)",
        user.get(),
        external_id,
    )
    .execute(&mut *conn)
    .await?;
    let destroyed = sqlx::query!("DELETE FROM public.user_data_keys WHERE user_id = $1", user.get())
        .execute(&mut *conn)
        .await?;
    sqlx::query!("SELECT pg_notify('ledger_users', $1::uuid::text)", user.get()).execute(conn).await?;
    Ok(destroyed.rows_affected())
}

/// Blanks the address and user agent of these calls, by id and time.
pub async fn blank_calls(conn: &mut PgConnection, calls: &[(Uuid, DateTime<Utc>)]) -> Result<(), Error> {
    let (ids, times): (Vec<Uuid>, Vec<DateTime<Utc>>) = calls.iter().copied().unzip();
    sqlx::query!(
        "UPDATE api_usage u SET ip_address = NULL, user_agent = NULL
         FROM UNNEST($1::uuid[], $2::timestamptz[]) AS given (id, created_at)
         WHERE u.id = given.id AND u.created_at = given.created_at
           AND (u.ip_address IS NOT NULL OR u.user_agent IS NOT NULL)",
        &ids,
        &times,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Every table of a month's calls, attached or not.
pub async fn month_tables(conn: &mut PgConnection) -> Result<Vec<String>, Error> {
    let tables = sqlx::query_scalar!(
        r#"SELECT c.relname::text AS "name!" FROM pg_class c
           WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
             AND c.relname ~ '^api_usage_\d{4}_\d{2}$'
           ORDER BY c.relname"#
    )
    .fetch_all(conn)
    .await?;
    Ok(tables)
}

/// Blanks the address and user agent of the user's calls in one of [`month_tables`], `limit` at most; answers how many
/// it were. Fewer than `limit`: none is left there.
pub async fn blank_month(
    conn: &mut PgConnection,
    table: &str,
    user: UserId,
    limit: u32,
) -> Result<u64, Error> {
    // The name is one of the catalog's that matched a pattern of digits.
    let done = sqlx::query(&format!(
        "UPDATE {table} SET ip_address = NULL, user_agent = NULL
         WHERE ctid = ANY (ARRAY (
             SELECT ctid FROM {table}
             WHERE user_id = $1 AND (ip_address IS NOT NULL OR user_agent IS NOT NULL) LIMIT $2 FOR UPDATE))"
    ))
    .bind(user.get())
    .bind(i64::from(limit))
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Notes that no row holds anything personal of the tombstone any more.
pub async fn finish(conn: &mut PgConnection, user: UserId, now: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE public.users SET blanked_at = COALESCE(blanked_at, $2)
         WHERE user_id = $1 AND status = 'erased'",
        user.get(),
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether nothing is left to do about the user's erasure.
pub async fn is_finished(conn: &mut PgConnection, user: UserId) -> Result<bool, Error> {
    let finished = sqlx::query_scalar!(
        r#"SELECT u.status = 'erased' AND u.blanked_at IS NOT NULL
              AND EXISTS (SELECT FROM erased_users e WHERE e.user_id = u.user_id)
              AND NOT EXISTS (SELECT FROM public.user_data_keys k WHERE k.user_id = u.user_id) AS "finished!"
           FROM public.users u WHERE u.user_id = $1"#,
        user.get()
    )
    .fetch_optional(conn)
    .await?;
    Ok(finished.unwrap_or(false))
}
