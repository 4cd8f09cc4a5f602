//! Changes of accounts in the tables: whole, or not at all.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

/// Time that a change may take: others would wait for it.
const WITHIN: Duration = Duration::from_secs(5);

/// Does this to the tables in a transaction, or nothing. It waits for nobody for long.
pub(super) async fn in_transaction<T, E: From<store::Error>>(
    pool: &PgPool,
    operation: &'static str,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<T, E> {
    store::within(operation, WITHIN, async {
        let mut tx = pool.begin().await.map_err(store::Error::from)?;
        let done = work(&mut tx).await?;
        tx.commit().await.map_err(store::Error::from)?;
        Ok(done)
    })
    .await
}
