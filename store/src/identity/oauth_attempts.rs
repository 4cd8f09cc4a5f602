//! Sign-ins that are under way elsewhere. Mutable, short-lived, and erased with their user.

use chrono::{DateTime, Utc};
use credentials::Hash;
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;

/// Ended attempts that the making of another one deletes.
const SWEPT: i64 = 100;

/// A sign-in that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Hash of the state.
    pub hash: Hash,
    /// Hash of the secret in the cookie of the browser that began it.
    pub browser: Hash,
    /// The user who adds this way to sign in, and the session that it has; none is a sign-in.
    pub linking: Option<(UserId, Uuid)>,
    /// Path on this site to go on at.
    pub next: String,
}

/// Begins an attempt.
pub async fn insert(
    conn: &mut PgConnection,
    attempt: &Attempt,
    at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM public.oauth_attempts WHERE hash IN (
             SELECT hash FROM public.oauth_attempts WHERE ends_at <= $1 ORDER BY ends_at LIMIT $2
             FOR UPDATE SKIP LOCKED)",
        at,
        SWEPT
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO public.oauth_attempts (hash, browser_hash, user_id, session_id, next, ends_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
        attempt.hash.as_slice(),
        attempt.browser.as_slice(),
        attempt.linking.map(|(user, _)| user.get()),
        attempt.linking.map(|(_, session)| session),
        attempt.next,
        ends_at
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends the attempt of this state, whoever asks; answers it if it had not ended by `now`.
pub async fn take(
    conn: &mut PgConnection,
    hash: &Hash,
    now: DateTime<Utc>,
) -> Result<Option<Attempt>, Error> {
    let row = sqlx::query!(
        "DELETE FROM public.oauth_attempts WHERE hash = $1
         RETURNING browser_hash, user_id, session_id, next, ends_at",
        hash.as_slice()
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.filter(|row| row.ends_at > now).and_then(|row| {
        Some(Attempt {
            hash: *hash,
            browser: row.browser_hash.try_into().ok()?,
            linking: row.user_id.map(UserId::new).zip(row.session_id),
            next: row.next,
        })
    }))
}
