//! Addresses from which users have signed in. Mutable, and erased with their user.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;

use crate::Error;

/// Addresses remembered of a user; the one not used for the longest time goes first.
const MAX_ADDRESSES: i64 = 10;

/// Notes that the user has signed in from this address, within the caller's transaction.
pub async fn note(
    conn: &mut PgConnection,
    user: UserId,
    address: IpAddr,
    at: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO public.known_addresses (user_id, address, used_at) VALUES ($1, $2, $3)
         ON CONFLICT (user_id, address) DO UPDATE SET used_at = EXCLUDED.used_at",
        user.get(),
        address.to_string(),
        at
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "DELETE FROM public.known_addresses WHERE user_id = $1 AND address IN (
             SELECT address FROM public.known_addresses WHERE user_id = $1
             ORDER BY used_at DESC, address OFFSET $2)",
        user.get(),
        MAX_ADDRESSES
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether the user has signed in from this address.
pub async fn is_known(conn: &mut PgConnection, user: UserId, address: IpAddr) -> Result<bool, Error> {
    let known = sqlx::query_scalar!(
        "SELECT true FROM public.known_addresses WHERE user_id = $1 AND address = $2",
        user.get(),
        address.to_string()
    )
    .fetch_optional(conn)
    .await?;
    Ok(known.is_some())
}
