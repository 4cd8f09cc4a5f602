//! Sessions of browsers: who is signed in, how, and until when. Mutable, and erased with their user.

use chrono::{DateTime, Utc};
use credentials::Hash;
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::identity::credential_changes::{self, Changed};

/// Sessions of a user at a time; the oldest make room for new ones.
const MAX_SESSIONS: i64 = 50;

/// A session as authentication needs it. Its times are the caller's to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: Uuid,
    /// Its user.
    pub user: UserId,
    /// How its user signed in.
    pub method: Method,
    /// Whether the second factor is still to be shown.
    pub is_pending: bool,
    /// Whether its user has a second factor.
    pub has_factor: bool,
    /// Time of the sign-in, or of the second factor if that was shown later.
    pub proven_at: DateTime<Utc>,
    /// Time of its last use, give or take a minute.
    pub last_used_at: DateTime<Utc>,
    /// Its end, however much it is used.
    pub ends_at: DateTime<Utc>,
}

/// A session as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: Uuid,
    /// How its user signed in.
    pub method: Method,
    /// Whether the second factor is still to be shown.
    pub is_pending: bool,
    /// Time at which it was made.
    pub created_at: DateTime<Utc>,
    /// Time of its last use, give or take a minute.
    pub last_used_at: DateTime<Utc>,
    /// Its end, however much it is used.
    pub ends_at: DateTime<Utc>,
    /// Address at which it was made.
    pub address: String,
    /// Browser by which it was made, if it said so.
    pub user_agent: Option<String>,
}

/// A session to be made.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Its id.
    pub id: Uuid,
    /// Hash of its secret.
    pub hash: Hash,
    /// Its user.
    pub user: UserId,
    /// How its user signed in.
    pub method: Method,
    /// Time at which it is made.
    pub at: DateTime<Utc>,
    /// Its end, however much it is used.
    pub ends_at: DateTime<Utc>,
    /// Address of the client.
    pub address: String,
    /// Browser of the client, if it said so.
    pub user_agent: Option<String>,
}

/// How a user signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// By address and password.
    Password,
    /// By an account of GitHub.
    GitHub,
    /// By a link that is good once.
    Link,
}

impl Method {
    /// The name in the table, and in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::GitHub => "github",
            Self::Link => "link",
        }
    }

    fn read(name: String) -> Result<Self, Error> {
        let known =
            [Self::Password, Self::GitHub, Self::Link].into_iter().find(|method| method.as_str() == name);
        known.ok_or(Error::Inconsistent { table: "sessions", column: "method", value: name })
    }
}

/// What became of a sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// There is a session; whether its user has a second factor, which is still to be shown.
    New {
        /// Whether the second factor is still to be shown.
        is_pending: bool,
    },
    /// There is no such user, or it may not sign in.
    Barred,
}

/// The session that has a secret of this hash.
pub async fn find(conn: &mut PgConnection, hash: &Hash) -> Result<Option<Found>, Error> {
    let row = sqlx::query!(
        r#"SELECT s.session_id, s.user_id, s.method, s.is_pending, s.last_used_at, s.ends_at,
                  GREATEST(s.created_at, s.factor_at) AS "proven_at!",
                  EXISTS (SELECT FROM public.second_factors f
                          WHERE f.user_id = s.user_id AND f.confirmed_at IS NOT NULL) AS "has_factor!"
           FROM public.sessions s WHERE s.hash = $1"#,
        hash.as_slice()
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(Found {
            id: row.session_id,
            user: UserId::new(row.user_id),
            method: Method::read(row.method)?,
            is_pending: row.is_pending,
            has_factor: row.has_factor,
            proven_at: row.proven_at,
            last_used_at: row.last_used_at,
            ends_at: row.ends_at,
        })
    })
    .transpose()
}

/// Makes a session, within the caller's transaction. It is pending if its user has a second factor.
pub async fn insert(conn: &mut PgConnection, new: &NewSession) -> Result<Inserted, Error> {
    // From here on nobody erases or bars the user, or changes its factors, until the transaction ends; and whoever
    // does it afterwards finds the session.
    if !lock_active(conn, new.user).await? {
        return Ok(Inserted::Barred);
    }
    let is_pending = sqlx::query_scalar!(
        r#"INSERT INTO public.sessions (session_id, hash, user_id, method, is_pending, created_at, last_used_at,
                                        ends_at, address, user_agent)
           VALUES ($1, $2, $3, $4,
                   EXISTS (SELECT FROM public.second_factors WHERE user_id = $3 AND confirmed_at IS NOT NULL),
                   $5, $5, $6, $7, $8)
           RETURNING is_pending"#,
        new.id,
        new.hash.as_slice(),
        new.user.get(),
        new.method.as_str(),
        new.at,
        new.ends_at,
        new.address,
        new.user_agent,
    )
    .fetch_one(&mut *conn)
    .await?;
    let pushed_out = sqlx::query_scalar!(
        "DELETE FROM public.sessions WHERE session_id IN (
             SELECT session_id FROM public.sessions WHERE user_id = $1
             ORDER BY created_at DESC, session_id DESC OFFSET $2)
         RETURNING session_id",
        new.user.get(),
        MAX_SESSIONS
    )
    .fetch_all(&mut *conn)
    .await?;
    for session in pushed_out {
        credential_changes::count(conn, Changed::Session(session)).await?;
    }
    Ok(Inserted::New { is_pending })
}

/// Locks the account against its end and against being barred, within the caller's transaction; `false` when it is not
/// active.
pub async fn lock_active(conn: &mut PgConnection, user: UserId) -> Result<bool, Error> {
    let is_active = sqlx::query_scalar!(
        "SELECT true FROM public.users WHERE user_id = $1 AND status = 'active' FOR NO KEY UPDATE",
        user.get()
    )
    .fetch_optional(conn)
    .await?;
    Ok(is_active.is_some())
}

/// Gives a session another secret, within the caller's transaction: what it may do has changed. With `factor_at` the
/// second factor was shown. `false` when the session has ended.
pub async fn renew(
    conn: &mut PgConnection,
    id: Uuid,
    hash: &Hash,
    factor_at: Option<DateTime<Utc>>,
) -> Result<bool, Error> {
    let renewed = sqlx::query!(
        "UPDATE public.sessions SET hash = $2, factor_at = COALESCE($3, factor_at),
             is_pending = is_pending AND $3::timestamptz IS NULL
         WHERE session_id = $1",
        id,
        hash.as_slice(),
        factor_at
    )
    .execute(&mut *conn)
    .await?;
    if renewed.rows_affected() == 0 {
        return Ok(false);
    }
    credential_changes::count(conn, Changed::Session(id)).await?;
    Ok(true)
}

/// Ends a session of this user, within the caller's transaction; `false` when there is none.
pub async fn end(conn: &mut PgConnection, user: UserId, id: Uuid) -> Result<bool, Error> {
    let ended =
        sqlx::query!("DELETE FROM public.sessions WHERE user_id = $1 AND session_id = $2", user.get(), id)
            .execute(&mut *conn)
            .await?;
    if ended.rows_affected() == 0 {
        return Ok(false);
    }
    credential_changes::count(conn, Changed::Session(id)).await?;
    Ok(true)
}

/// Ends all sessions of this user but `except`, within the caller's transaction; answers how many there were. Counted
/// also when there were none: one may be made that nobody sees yet.
pub async fn end_all(conn: &mut PgConnection, user: UserId, except: Option<Uuid>) -> Result<u64, Error> {
    let ended = sqlx::query!(
        "DELETE FROM public.sessions WHERE user_id = $1 AND session_id IS DISTINCT FROM $2",
        user.get(),
        except
    )
    .execute(&mut *conn)
    .await?;
    credential_changes::count(conn, Changed::User(user)).await?;
    Ok(ended.rows_affected())
}

/// Sessions of this user that have not ended at `now`, the newest first.
pub async fn list(
    conn: &mut PgConnection,
    user: UserId,
    now: DateTime<Utc>,
    idle_since: DateTime<Utc>,
) -> Result<Vec<Session>, Error> {
    let rows = sqlx::query!(
        "SELECT session_id, method, is_pending, created_at, last_used_at, ends_at, address, user_agent
         FROM public.sessions WHERE user_id = $1 AND ends_at > $2 AND last_used_at > $3
         ORDER BY created_at DESC, session_id DESC",
        user.get(),
        now,
        idle_since
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Session {
                id: row.session_id,
                method: Method::read(row.method)?,
                is_pending: row.is_pending,
                created_at: row.created_at,
                last_used_at: row.last_used_at,
                ends_at: row.ends_at,
                address: row.address,
                user_agent: row.user_agent,
            })
        })
        .collect()
}

/// Notes uses of sessions. Nobody is told.
pub async fn used(conn: &mut PgConnection, uses: &[(Uuid, DateTime<Utc>)]) -> Result<(), Error> {
    let (sessions, times): (Vec<Uuid>, Vec<DateTime<Utc>>) = uses.iter().copied().unzip();
    sqlx::query!(
        "UPDATE public.sessions s SET last_used_at = GREATEST(s.last_used_at, u.at)
         FROM UNNEST($1::uuid[], $2::timestamptz[]) AS u (session_id, at) WHERE s.session_id = u.session_id",
        &sessions,
        &times
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes sessions that have ended by `now`, `limit` at most; answers how many. What ends by itself needs no telling.
pub async fn delete_ended(conn: &mut PgConnection, now: DateTime<Utc>, limit: u32) -> Result<u64, Error> {
    let deleted = sqlx::query!(
        "DELETE FROM public.sessions WHERE session_id IN (
             SELECT session_id FROM public.sessions WHERE ends_at <= $1 ORDER BY ends_at LIMIT $2
             FOR UPDATE SKIP LOCKED)",
        now,
        i64::from(limit)
    )
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
}
