//! Savepoints by name, within a transaction of the caller. sqlx's nested transactions roll back only when the
//! connection is next used, which is too late beside COPY.

use sqlx::{Executor, PgConnection};

use crate::Error;

/// Opens the savepoint.
pub async fn open(conn: &mut PgConnection) -> Result<(), Error> {
    conn.execute("SAVEPOINT batch_step").await?;
    Ok(())
}

/// Keeps what was done since the savepoint was opened.
pub async fn release(conn: &mut PgConnection) -> Result<(), Error> {
    conn.execute("RELEASE SAVEPOINT batch_step").await?;
    Ok(())
}

/// Undoes what was done since the savepoint was opened, and closes it.
pub async fn undo(conn: &mut PgConnection) -> Result<(), Error> {
    conn.execute("ROLLBACK TO SAVEPOINT batch_step; RELEASE SAVEPOINT batch_step").await?;
    Ok(())
}
