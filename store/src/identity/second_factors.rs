//! Second factors: what a person shows beside the first one. Mutable, and erased with their user.
//!
//! Who changes them holds the account ([`super::sessions::lock_active`]) and counts it among the changes of
//! credentials: sessions know whether there is one.

use chrono::{DateTime, Utc};
use credentials::Hash;
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;

/// Confirmed factors that a user may have.
pub const MAX_FACTORS: i64 = 5;

/// A second factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factor {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its secret, sealed with the user's data key.
    pub secret: Vec<u8>,
    /// The last step of time whose code was taken.
    pub last_step: i64,
    /// Time at which it was made.
    pub created_at: DateTime<Utc>,
    /// Time from which it is asked for; none while it is being set up.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// Time of its last use.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// Begins to set a factor up, in place of another one that was not confirmed.
pub async fn insert(
    conn: &mut PgConnection,
    user: UserId,
    id: Uuid,
    name: &str,
    secret: &[u8],
    at: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!("DELETE FROM public.second_factors WHERE user_id = $1 AND confirmed_at IS NULL", user.get())
        .execute(&mut *conn)
        .await?;
    sqlx::query!(
        "INSERT INTO public.second_factors (factor_id, user_id, kind, name, secret, created_at)
         VALUES ($1, $2, 'totp', $3, $4, $5)",
        id,
        user.get(),
        name,
        secret,
        at
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Factors of the user, those that are being set up too, the oldest first.
pub async fn list(conn: &mut PgConnection, user: UserId) -> Result<Vec<Factor>, Error> {
    let factors = sqlx::query_as!(
        Factor,
        "SELECT factor_id AS id, name, secret, last_step, created_at, confirmed_at, last_used_at
         FROM public.second_factors WHERE user_id = $1 ORDER BY created_at, factor_id",
        user.get()
    )
    .fetch_all(conn)
    .await?;
    Ok(factors)
}

/// Factors of the user that are asked for, the oldest first.
pub async fn confirmed(conn: &mut PgConnection, user: UserId) -> Result<Vec<Factor>, Error> {
    let mut factors = list(conn, user).await?;
    factors.retain(|factor| factor.confirmed_at.is_some());
    Ok(factors)
}

/// Spends a step of the factor: `false` when it, or a later one, was spent before. The first one confirms it.
pub async fn spend(
    conn: &mut PgConnection,
    user: UserId,
    id: Uuid,
    step: i64,
    at: DateTime<Utc>,
) -> Result<bool, Error> {
    let spent = sqlx::query!(
        "UPDATE public.second_factors
         SET last_step = $3, last_used_at = $4, confirmed_at = COALESCE(confirmed_at, $4)
         WHERE user_id = $1 AND factor_id = $2 AND last_step < $3",
        user.get(),
        id,
        step,
        at
    )
    .execute(conn)
    .await?;
    Ok(spent.rows_affected() == 1)
}

/// Removes a factor; `false` when there is none.
pub async fn remove(conn: &mut PgConnection, user: UserId, id: Uuid) -> Result<bool, Error> {
    let removed = sqlx::query!(
        "DELETE FROM public.second_factors WHERE user_id = $1 AND factor_id = $2",
        user.get(),
        id
    )
    .execute(conn)
    .await?;
    Ok(removed.rows_affected() == 1)
}

/// Removes all factors of the user, and its recovery codes; answers how many factors there were.
pub async fn remove_all(conn: &mut PgConnection, user: UserId) -> Result<u64, Error> {
    sqlx::query!("DELETE FROM public.recovery_codes WHERE user_id = $1", user.get())
        .execute(&mut *conn)
        .await?;
    let removed = sqlx::query!("DELETE FROM public.second_factors WHERE user_id = $1", user.get())
        .execute(conn)
        .await?;
    Ok(removed.rows_affected())
}

/// Sets the user's recovery codes, in place of earlier ones.
pub async fn set_codes(conn: &mut PgConnection, user: UserId, hashes: &[Hash]) -> Result<(), Error> {
    let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.to_vec()).collect();
    sqlx::query!("DELETE FROM public.recovery_codes WHERE user_id = $1", user.get())
        .execute(&mut *conn)
        .await?;
    sqlx::query!(
        "INSERT INTO public.recovery_codes (user_id, hash) SELECT $1, hash FROM UNNEST($2::bytea[]) AS given (hash)",
        user.get(),
        &hashes
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Uses up a recovery code; `false` when it is none.
pub async fn take_code(conn: &mut PgConnection, user: UserId, hash: &Hash) -> Result<bool, Error> {
    let taken = sqlx::query!(
        "DELETE FROM public.recovery_codes WHERE user_id = $1 AND hash = $2",
        user.get(),
        hash.as_slice()
    )
    .execute(conn)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Number of recovery codes that are left.
pub async fn codes_left(conn: &mut PgConnection, user: UserId) -> Result<u64, Error> {
    let left = sqlx::query_scalar!(
        r#"SELECT count(*) AS "left!" FROM public.recovery_codes WHERE user_id = $1"#,
        user.get()
    )
    .fetch_one(conn)
    .await?;
    Ok(left.unsigned_abs())
}
