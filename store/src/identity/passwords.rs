//! Hashes of passwords. Mutable, and erased with their user.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;

use crate::Error;

/// The hash of the user's password, in the PHC format.
pub async fn hash(conn: &mut PgConnection, user: UserId) -> Result<Option<String>, Error> {
    let hash = sqlx::query_scalar!("SELECT hash FROM public.passwords WHERE user_id = $1", user.get())
        .fetch_optional(conn)
        .await?;
    Ok(hash)
}

/// The user of this canonical address, with the hash of its password if it has one.
pub async fn of_email(
    conn: &mut PgConnection,
    email: &str,
) -> Result<Option<(UserId, Option<String>)>, Error> {
    let row = sqlx::query!(
        r#"SELECT i.user_id, p.hash AS "hash?" FROM public.identities i
           LEFT JOIN public.passwords p USING (user_id) WHERE i.kind = 'email' AND i.subject = $1"#,
        email
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (UserId::new(row.user_id), row.hash)))
}

/// Sets the user's password, within the caller's transaction, which holds the account.
pub async fn set(conn: &mut PgConnection, user: UserId, hash: &str, at: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO public.passwords (user_id, hash, changed_at) VALUES ($1, $2, $3)
         ON CONFLICT (user_id) DO UPDATE SET hash = EXCLUDED.hash, changed_at = EXCLUDED.changed_at",
        user.get(),
        hash,
        at
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Exchanges the hash for another one of the same password, unless it was changed meanwhile.
pub async fn rehash(conn: &mut PgConnection, user: UserId, before: &str, after: &str) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE public.passwords SET hash = $3 WHERE user_id = $1 AND hash = $2",
        user.get(),
        before,
        after
    )
    .execute(conn)
    .await?;
    Ok(())
}
