//! End of users in `public`: account, API keys, data keys and kept answers.
//!
//! The log's `user_erased` is the fact, projected into `erased_users`. Everything else follows from it and can be done
//! again: the account becomes a tombstone and the data keys are deleted ([`bury`]), then the rows lose what the keys
//! had opened ([`crate::projection::personal_tables`]).

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::identity::credential_changes::{self, Changed};
use crate::identity::{api_keys, people};

/// An erasure that the projection has as open: something may be left to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenErasure {
    /// The user.
    pub user: UserId,
    /// Time of the decision.
    pub erased_at: DateTime<Utc>,
    /// Whether account, data keys and rows know it already.
    pub is_finished: bool,
}

/// State of a user's erasure by log and account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErasureState {
    /// Time at which the user was erased, if so.
    pub erased_at: Option<DateTime<Utc>>,
    /// Whether there is an account that is no tombstone.
    pub has_account: bool,
}

/// Open erasures after `after` that were not noted as finished, in the order of their users' ids, `limit` at most.
pub async fn open(
    conn: &mut PgConnection,
    after: Option<UserId>,
    limit: u32,
) -> Result<Vec<OpenErasure>, Error> {
    let rows = sqlx::query!(
        r#"SELECT e.user_id, e.erased_at,
                  COALESCE(u.status = 'erased' AND u.blanked_at IS NOT NULL, false)
                      AND NOT EXISTS (SELECT FROM public.user_data_keys k WHERE k.user_id = e.user_id)
                      AND NOT EXISTS (SELECT FROM public.api_keys k WHERE k.user_id = e.user_id)
                      AND NOT EXISTS (SELECT FROM public.identities i WHERE i.user_id = e.user_id)
                      AND NOT EXISTS (SELECT FROM public.sessions s WHERE s.user_id = e.user_id)
                      AS "is_finished!"
           FROM open_erasures o JOIN erased_users e USING (user_id) LEFT JOIN public.users u USING (user_id)
           WHERE o.finished_at IS NULL AND o.user_id > $1
           ORDER BY o.user_id LIMIT $2"#,
        before_next(after),
        i64::from(limit)
    )
    .fetch_all(conn)
    .await?;
    let open = rows.into_iter().map(|row| OpenErasure {
        user: UserId::new(row.user_id),
        erased_at: row.erased_at,
        is_finished: row.is_finished,
    });
    Ok(open.collect())
}

/// A page of all erased users, looked at for what was undone since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reopened {
    /// The last user of the page; `None` when there was none.
    pub last: Option<UserId>,
    /// Erasures that are open again.
    pub opened: u64,
}

/// Opens the erasures again of which a restored backup has brought something back: among `limit` erased users after
/// `after`, in the order of their ids.
pub async fn reopen(conn: &mut PgConnection, after: Option<UserId>, limit: u32) -> Result<Reopened, Error> {
    let row = sqlx::query!(
        r#"WITH page AS (
               SELECT user_id FROM erased_users WHERE user_id > $1 ORDER BY user_id LIMIT $2),
           opened AS (
               INSERT INTO open_erasures (user_id)
               SELECT p.user_id FROM page p LEFT JOIN public.users u USING (user_id)
               WHERE u.status IS DISTINCT FROM 'erased' OR u.blanked_at IS NULL
                  OR EXISTS (SELECT FROM public.user_data_keys k WHERE k.user_id = p.user_id)
                  OR EXISTS (SELECT FROM public.api_keys k WHERE k.user_id = p.user_id)
                  OR EXISTS (SELECT FROM public.identities i WHERE i.user_id = p.user_id)
                  OR EXISTS (SELECT FROM public.sessions s WHERE s.user_id = p.user_id)
               ON CONFLICT (user_id) DO UPDATE SET finished_at = NULL
               RETURNING user_id)
           SELECT (SELECT user_id FROM page ORDER BY user_id DESC LIMIT 1) AS last,
                  (SELECT count(*) FROM opened) AS "opened!""#,
        before_next(after),
        i64::from(limit)
    )
    .fetch_one(conn)
    .await?;
    Ok(Reopened { last: row.last.map(UserId::new), opened: row.opened.unsigned_abs() })
}

/// The id behind which a page begins; no user has the one before all of them.
fn before_next(after: Option<UserId>) -> Uuid {
    after.map_or_else(Uuid::nil, UserId::get)
}

/// Notes that these open erasures are finished. They stay open until no process can remember a data key of theirs.
pub async fn note_finished(conn: &mut PgConnection, users: &[UserId]) -> Result<(), Error> {
    let users: Vec<Uuid> = users.iter().map(|user| user.get()).collect();
    sqlx::query!("UPDATE open_erasures SET finished_at = now() WHERE user_id = ANY ($1)", &users)
        .execute(conn)
        .await?;
    Ok(())
}

/// Closes erasures that were finished an hour ago: processes forget a destroyed data key within seconds, and a batch
/// that was read with one is applied or given up within minutes.
pub async fn close_finished(conn: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("DELETE FROM open_erasures WHERE finished_at < now() - interval '1 hour'")
        .execute(conn)
        .await?;
    Ok(())
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

/// Makes the account a tombstone, also where there is none, destroys what its user signs in with, the API keys, the
/// data keys and the answers that were kept for the user, and announces it when the caller's transaction commits.
/// Answers how many data keys there were. `external_id_hash` is that of [`unhashed_external_id`]; one that is stored by
/// now counts, for the id may have changed.
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
    api_keys::delete_all(conn, user).await?;
    people::delete_all(conn, user).await?;
    let destroyed = sqlx::query!("DELETE FROM public.user_data_keys WHERE user_id = $1", user.get())
        .execute(&mut *conn)
        .await?;
    sqlx::query!("SELECT pg_notify('ledger_users', $1::uuid::text)", user.get()).execute(&mut *conn).await?;
    credential_changes::count(conn, Changed::User(user)).await?;
    Ok(destroyed.rows_affected())
}

async fn forget_answers(conn: &mut PgConnection, user: UserId) -> Result<(), Error> {
    sqlx::query!("DELETE FROM public.idempotency_keys WHERE principal = $1", user.get())
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes that no row holds anything personal of the tombstone any more. Answers that were kept by a process which had
/// not heard of its end go too.
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
              AND NOT EXISTS (SELECT FROM public.user_data_keys k WHERE k.user_id = u.user_id)
              AND NOT EXISTS (SELECT FROM public.api_keys k WHERE k.user_id = u.user_id)
                      AND NOT EXISTS (SELECT FROM public.identities i WHERE i.user_id = u.user_id)
                      AND NOT EXISTS (SELECT FROM public.sessions s WHERE s.user_id = u.user_id) AS "finished!"
           FROM public.users u WHERE u.user_id = $1"#,
        user.get()
    )
    .fetch_optional(conn)
    .await?;
    Ok(finished.unwrap_or(false))
}

/// Reads whether the user is erased.
pub async fn state(conn: &mut PgConnection, user: UserId) -> Result<ErasureState, Error> {
    let row = sqlx::query!(
        r#"SELECT COALESCE(e.erased_at, u.erased_at) AS erased_at,
                  COALESCE(u.status <> 'erased', false) AS "has_account!"
           FROM (SELECT $1::uuid AS user_id) given
           LEFT JOIN erased_users e USING (user_id) LEFT JOIN public.users u USING (user_id)"#,
        user.get()
    )
    .fetch_one(conn)
    .await?;
    Ok(ErasureState { erased_at: row.erased_at, has_account: row.has_account })
}
