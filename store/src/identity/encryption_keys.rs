//! Check values of root keys, which tell a changed root key from the right one.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::Error;

/// A root key that this database was used with: its name, and its check value as 16 hexadecimal digits.
pub type Check = (String, String);

/// All of them, by name.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<Check>, Error> {
    let rows = sqlx::query!("SELECT kid, check_value FROM public.encryption_keys ORDER BY kid")
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.kid, row.check_value)).collect())
}

/// Time at which the root key of this name was first the current one: `now`, if it never was.
pub async fn current_since(
    conn: &mut PgConnection,
    kid: &str,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, Error> {
    sqlx::query!(
        "UPDATE public.encryption_keys SET current_since = $2 WHERE kid = $1 AND current_since IS NULL",
        kid,
        now
    )
    .execute(&mut *conn)
    .await?;
    let since = sqlx::query_scalar!("SELECT current_since FROM public.encryption_keys WHERE kid = $1", kid)
        .fetch_optional(conn)
        .await?;
    Ok(since.flatten())
}

/// Adds those whose names are new. One that another process added meanwhile stays: read them again.
pub async fn insert(conn: &mut PgConnection, checks: &[Check], now: DateTime<Utc>) -> Result<(), Error> {
    let (kids, values): (Vec<String>, Vec<String>) = checks.iter().cloned().unzip();
    sqlx::query!(
        "INSERT INTO public.encryption_keys (kid, check_value, created_at)
         SELECT kid, check_value, $3 FROM UNNEST($1::text[], $2::text[]) AS given (kid, check_value)
         ON CONFLICT DO NOTHING",
        &kids,
        &values,
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}
