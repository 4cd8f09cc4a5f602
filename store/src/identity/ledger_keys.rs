//! The ledger's own data keys, wrapped: they hash what outlives a user's.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::Error;

/// A data key of the ledger's own as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedLedgerKey {
    /// Its name.
    pub dek_id: String,
    /// The root key that wraps it.
    pub kid: String,
    /// The sealed data key, as JSON.
    pub sealed: String,
}

/// The one of this name.
pub async fn find(conn: &mut PgConnection, dek_id: &str) -> Result<Option<WrappedLedgerKey>, Error> {
    Ok(sqlx::query_as!(
        WrappedLedgerKey,
        r#"SELECT dek_id, kid, sealed::text AS "sealed!" FROM public.ledger_data_keys WHERE dek_id = $1"#,
        dek_id
    )
    .fetch_optional(conn)
    .await?)
}

/// Those that another root key than `kid` wraps, by name. There are few: one, today.
pub async fn not_under(conn: &mut PgConnection, kid: &str) -> Result<Vec<WrappedLedgerKey>, Error> {
    Ok(sqlx::query_as!(
        WrappedLedgerKey,
        r#"SELECT dek_id, kid, sealed::text AS "sealed!" FROM public.ledger_data_keys
           WHERE kid <> $1 ORDER BY dek_id"#,
        kid
    )
    .fetch_all(conn)
    .await?)
}

/// Stores a new one unless there is one of its name; read it back.
pub async fn insert(
    conn: &mut PgConnection,
    key: &WrappedLedgerKey,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO public.ledger_data_keys (dek_id, kid, sealed, created_at) VALUES ($1, $2, $3::text::json, $4)
         ON CONFLICT DO NOTHING",
        key.dek_id,
        key.kid,
        key.sealed,
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Puts a re-wrapped one in the place of `old`; answers whether it did, which it does not if `old` is stored no more.
pub async fn replace(
    conn: &mut PgConnection,
    old: &WrappedLedgerKey,
    new: &WrappedLedgerKey,
) -> Result<bool, Error> {
    let replaced = sqlx::query!(
        "UPDATE public.ledger_data_keys SET kid = $2, sealed = $3::text::json
         WHERE dek_id = $1 AND sealed::jsonb = $4::text::jsonb",
        old.dek_id,
        new.kid,
        new.sealed,
        old.sealed
    )
    .execute(conn)
    .await?;
    Ok(replaced.rows_affected() == 1)
}
