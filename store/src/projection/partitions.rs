//! The monthly partitions of `api_usage`.

use ledger::Month;
use sqlx::{Connection, Executor, PgConnection};

use crate::Error;
use crate::patience::{LOCK_WAIT_MS, Patience};

/// State of a month's partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    /// Rows can be added.
    Attached,
    /// The month's rows were taken out of `api_usage`; none can be added.
    Detached,
}

/// The name of the month's partition, which is safe in SQL: digits and underscores after a fixed prefix.
pub(crate) fn table(month: Month) -> String {
    format!("api_usage_{:04}_{:02}", month.year(), month.number())
}

/// Makes the month's partition if there is none: as a table of its own first, then attached, which locks `api_usage`
/// for less time than creating it in place, and is tried again rather than waited for. Runs in its own transaction,
/// outside of any other.
///
/// # Errors
/// [`Error::Locked`] when others kept it from being attached for half a minute.
pub async fn ensure(conn: &mut PgConnection, month: Month) -> Result<Partition, Error> {
    let table = table(month);
    if let Some(partition) = find(conn, &table).await? {
        return Ok(partition);
    }
    let mut patience = Patience::new();
    loop {
        let mut tx = conn.begin().await?;
        match attach(&mut tx, &table, month).await {
            Ok(partition) => {
                tx.commit().await?;
                return Ok(partition);
            }
            Err(error) => {
                tx.rollback().await?;
                patience.again(error).await?;
            }
        }
    }
}

async fn attach(conn: &mut PgConnection, table: &str, month: Month) -> Result<Partition, sqlx::Error> {
    // Two processes may meet here; the second one finds what the first one made.
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", table).execute(&mut *conn).await?;
    if let Some(partition) = find(conn, table).await? {
        return Ok(partition);
    }
    let (from, to) = (month.start().to_rfc3339(), month.end().to_rfc3339());
    conn.execute(sqlx::raw_sql(&format!(
        "SET LOCAL lock_timeout = {LOCK_WAIT_MS};
         CREATE TABLE {table} (LIKE api_usage INCLUDING ALL);
         ALTER TABLE api_usage ATTACH PARTITION {table} FOR VALUES FROM ('{from}') TO ('{to}');
         SET LOCAL lock_timeout = 0"
    )))
    .await?;
    Ok(Partition::Attached)
}

/// The months whose calls are there, in order; those of detached months are elsewhere.
pub async fn attached(conn: &mut PgConnection) -> Result<Vec<Month>, Error> {
    let texts: Vec<String> = sqlx::query_scalar(
        "SELECT replace(right(c.relname, 7), '_', '-') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'api_usage'::regclass ORDER BY 1",
    )
    .fetch_all(conn)
    .await?;
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}

async fn find(conn: &mut PgConnection, table: &str) -> Result<Option<Partition>, sqlx::Error> {
    let attached = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AS "attached!"
           FROM pg_class c WHERE c.relname = $1 AND c.relnamespace = current_schema()::regnamespace"#,
        table
    )
    .fetch_optional(conn)
    .await?;
    Ok(attached.map(|attached| if attached { Partition::Attached } else { Partition::Detached }))
}
