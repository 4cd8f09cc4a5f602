//! Accounts that admins use, or may.

use ledger::UserId;
use sqlx::PgConnection;

use crate::Error;
use crate::identity::sessions;

/// Notes that an admin uses this account, or may; answers whether there is one.
pub async fn mark_admin(conn: &mut PgConnection, user: UserId) -> Result<bool, Error> {
    let marked = sqlx::query!("UPDATE public.users SET used_by_admin = true WHERE user_id = $1", user.get())
        .execute(conn)
        .await?;
    Ok(marked.rows_affected() == 1)
}

/// Makes the account's sessions an admin's; `false` when there is no such account, or it was erased. Nobody who is
/// signed in becomes one by that.
pub async fn make_admin(conn: &mut PgConnection, user: UserId) -> Result<bool, Error> {
    let made = sqlx::query!(
        "UPDATE public.users SET is_admin = true, used_by_admin = true WHERE user_id = $1 AND status <> 'erased'",
        user.get()
    )
    .execute(&mut *conn)
    .await?;
    if made.rows_affected() == 0 {
        return Ok(false);
    }
    sessions::end_all(conn, user, None).await?;
    Ok(true)
}

/// The account whose sessions are an admin's and that was made first, if there is one that may be used.
pub async fn first_admin(conn: &mut PgConnection) -> Result<Option<UserId>, Error> {
    let first = sqlx::query_scalar!(
        "SELECT user_id FROM public.users WHERE is_admin AND status = 'active' ORDER BY created_at, user_id LIMIT 1"
    )
    .fetch_optional(conn)
    .await?;
    Ok(first.map(UserId::new))
}
