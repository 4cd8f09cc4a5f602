//! Users who are erased: what the log says (`erased_users`), and what is done about it in `public` and in the rows.
//!
//! The log's `user_erased` is the fact. Everything else follows from it and can be done again: the account becomes a
//! tombstone and the data keys are deleted ([`bury`]), then the calls' rows lose what the keys had opened.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

/// SQLSTATE of a table that is not there.
const UNDEFINED_TABLE: &str = "42P01";

/// A user whom the log calls erased, with an account, data keys or rows that do not know it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// Who.
    pub user: UserId,
    /// When it was decided.
    pub erased_at: DateTime<Utc>,
}

/// A table that may hold something personal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonalTable {
    /// Its name with its schema, quoted by PostgreSQL where it must be.
    pub name: String,
    /// What it holds.
    pub holds: Holds,
}

/// What a table holds of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Calls of a month, attached or not.
    Calls,
    /// The audit chain.
    Audit,
    /// Stored tokens.
    Tokens,
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

/// Erased users with whom something is left to do, `limit` at most; after `after`, in the order of their ids.
pub async fn unfinished(
    conn: &mut PgConnection,
    after: Option<UserId>,
    limit: u32,
) -> Result<Vec<Unfinished>, Error> {
    let rows = sqlx::query!(
        "SELECT e.user_id, e.erased_at
         FROM erased_users e LEFT JOIN public.users u USING (user_id)
         WHERE (u.status IS DISTINCT FROM 'erased' OR u.blanked_at IS NULL
                OR EXISTS (SELECT FROM public.user_data_keys k WHERE k.user_id = e.user_id))
           AND ($1::uuid IS NULL OR e.user_id > $1)
         ORDER BY e.user_id LIMIT $2",
        after.map(UserId::get),
        i64::from(limit)
    )
    .fetch_all(conn)
    .await?;
    let unfinished =
        rows.into_iter().map(|row| Unfinished { user: UserId::new(row.user_id), erased_at: row.erased_at });
    Ok(unfinished.collect())
}

/// The account's external id, if it has one whose hash is not stored with it: the tombstone needs it.
pub async fn unhashed_external_id(conn: &mut PgConnection, user: UserId) -> Result<Option<String>, Error> {
    let external = sqlx::query_scalar!(
        "SELECT external_id FROM public.users WHERE user_id = $1 AND external_id_hash IS NULL",
        user.get()
    )
    .fetch_optional(conn)
    .await?;
    Ok(external.flatten())
}

/// Makes the account a tombstone, also where there is none, destroys the data keys and the answers that were kept for the
/// user, and announces it when the caller's transaction commits. Answers how many data keys there were.
/// `external_id_hash` is that of [`unhashed_external_id`]; one that is stored by now counts, for the id may have changed.
pub async fn bury(
    conn: &mut PgConnection,
    user: UserId,
    external_id_hash: Option<&[u8; 32]>,
    erased_at: DateTime<Utc>,
) -> Result<u64, Error> {
    // First the account: whoever makes a data key meanwhile holds a lock on it and is waited for. Without an account,
    // as in a database that was made anew, one would be made at the user's next call.
    sqlx::query!(
        "INSERT INTO public.users AS u (user_id, status, erased_at, created_at, updated_at)
         VALUES ($1, 'erased', $3, $3, $3)
         ON CONFLICT (user_id) DO UPDATE SET
             external_id_hash = CASE WHEN u.external_id IS NULL THEN u.external_id_hash
                                     ELSE COALESCE(u.external_id_hash, $2) END,
             external_id = NULL, email = NULL, name = NULL,
             erased_at = COALESCE(u.erased_at, $3), updated_at = GREATEST(u.updated_at, $3), status = 'erased'",
        user.get(),
        external_id_hash.map(<[u8; 32]>::as_slice),
        erased_at,
    )
    .execute(&mut *conn)
    .await?;
    forget_answers(conn, user).await?;
    let destroyed = sqlx::query!("DELETE FROM public.user_data_keys WHERE user_id = $1", user.get())
        .execute(&mut *conn)
        .await?;
    sqlx::query!("SELECT pg_notify('ledger_users', $1::uuid::text)", user.get()).execute(conn).await?;
    Ok(destroyed.rows_affected())
}

async fn forget_answers(conn: &mut PgConnection, user: UserId) -> Result<(), Error> {
    sqlx::query!("DELETE FROM public.idempotency_keys WHERE principal = $1", user.get())
        .execute(conn)
        .await?;
    Ok(())
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

/// Every table that may hold something personal: months attached and detached, audit chains, tokens; of the projection,
/// of one that a rebuild is making or keeps, and of one that a rebuild put aside and could not drop.
pub async fn personal_tables(conn: &mut PgConnection) -> Result<Vec<PersonalTable>, Error> {
    let tables = sqlx::query!(
        r#"SELECT c.relname::text AS "relname!", format('%I.%I', n.nspname, c.relname) AS "name!"
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname IN ('ledger', 'ledger_next', 'ledger_old') AND c.relkind = 'r'
             AND (c.relname ~ '^api_usage_\d{4}_\d{2}$' OR c.relname IN ('token_audit', 'user_tokens'))
           ORDER BY n.nspname, c.relname"#
    )
    .fetch_all(conn)
    .await?;
    let of = |name: &str| match name {
        "token_audit" => Holds::Audit,
        "user_tokens" => Holds::Tokens,
        _ => Holds::Calls,
    };
    Ok(tables.into_iter().map(|row| PersonalTable { holds: of(&row.relname), name: row.name }).collect())
}

impl PersonalTable {
    /// What is true of a row that holds something personal.
    pub(crate) const fn is_personal(&self) -> &'static str {
        match self.holds {
            Holds::Calls => "num_nonnulls(ip_address, user_agent) > 0",
            Holds::Audit => "num_nonnulls(token_name, ip_address, user_agent) > 0",
            Holds::Tokens => "true",
        }
    }

    /// Takes what is personal of the user out of the table, of `limit` rows at most; answers of how many it did. Fewer
    /// than `limit`: none is left. No rows: the table is gone, for a rebuild may drop it meanwhile.
    pub async fn blank(&self, conn: &mut PgConnection, user: UserId, limit: u32) -> Result<u64, Error> {
        let (table, is_personal) = (&self.name, self.is_personal());
        let change = match self.holds {
            Holds::Calls => format!("UPDATE {table} SET ip_address = NULL, user_agent = NULL"),
            Holds::Audit => {
                format!("UPDATE {table} SET token_name = NULL, ip_address = NULL, user_agent = NULL")
            }
            Holds::Tokens => format!("DELETE FROM {table}"),
        };
        // The name is the catalog's.
        let done = sqlx::query(&format!(
            "{change} WHERE ctid = ANY (ARRAY (
                 SELECT ctid FROM {table} WHERE user_id = $1 AND {is_personal} LIMIT $2 FOR UPDATE))"
        ))
        .bind(user.get())
        .bind(i64::from(limit))
        .execute(conn)
        .await;
        match done {
            Ok(done) => Ok(done.rows_affected()),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNDEFINED_TABLE) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// Blanks all calls of the user in the projection that the connection sees, months that are not attached included.
pub async fn blank_all_calls(conn: &mut PgConnection, user: UserId) -> Result<(), Error> {
    let schema: String = sqlx::query_scalar("SELECT current_schema()::text").fetch_one(&mut *conn).await?;
    for table in personal_tables(conn).await? {
        if table.holds == Holds::Calls && table.name.starts_with(&format!("{schema}.")) {
            table.blank(conn, user, u32::MAX).await?;
        }
    }
    Ok(())
}

/// Notes that no row holds anything personal of the tombstone any more. Answers that were kept by a process which had not
/// heard of its end go too.
pub async fn finish(conn: &mut PgConnection, user: UserId, now: DateTime<Utc>) -> Result<(), Error> {
    forget_answers(conn, user).await?;
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
