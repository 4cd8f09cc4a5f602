//! Savepoints within a transaction of the caller. sqlx's nested transactions roll back only when the connection is
//! next used, which is too late beside COPY.

use sqlx::{Executor, PgConnection};

use crate::Error;

/// Work that a savepoint guards. One of each kind may be open, [`Savepoint::Step`] within [`Savepoint::Isolated`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Savepoint {
    /// Events that may turn out not to be applicable.
    Isolated,
    /// A statement that may meet a row which is there already.
    Step,
}

/// Opens the savepoint.
pub async fn open(conn: &mut PgConnection, savepoint: Savepoint) -> Result<(), Error> {
    conn.execute(match savepoint {
        Savepoint::Isolated => "SAVEPOINT isolated",
        Savepoint::Step => "SAVEPOINT step",
    })
    .await?;
    Ok(())
}

/// Keeps what was done since the savepoint was opened.
pub async fn release(conn: &mut PgConnection, savepoint: Savepoint) -> Result<(), Error> {
    conn.execute(match savepoint {
        Savepoint::Isolated => "RELEASE SAVEPOINT isolated",
        Savepoint::Step => "RELEASE SAVEPOINT step",
    })
    .await?;
    Ok(())
}

/// Undoes what was done since the savepoint was opened, and closes it with all that were opened within it.
pub async fn undo(conn: &mut PgConnection, savepoint: Savepoint) -> Result<(), Error> {
    // Two statements by the simple protocol go in one round trip.
    conn.execute(sqlx::raw_sql(match savepoint {
        Savepoint::Isolated => "ROLLBACK TO SAVEPOINT isolated; RELEASE SAVEPOINT isolated",
        Savepoint::Step => "ROLLBACK TO SAVEPOINT step; RELEASE SAVEPOINT step",
    }))
    .await?;
    Ok(())
}
