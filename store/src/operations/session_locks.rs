//! Session locks, which keep one process at a time to a task; all of them in one place.

use sqlx::PgConnection;

use crate::Error;

/// Task that a session lock guards. Locks are the database's own: other databases of the same server have others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// The one active projector of a partition.
    Projector(i16),
    /// The one api process, until limits are leased.
    Api,
    /// The one rebuild.
    Rebuild,
}

/// "uled" in ASCII: sets our locks apart from those of other programs on the same database.
const NAMESPACE: i32 = 0x756c_6564;

impl Lock {
    /// The second key of the advisory lock.
    pub(super) const fn key(self) -> i32 {
        match self {
            Self::Projector(partition) => 0x1_0000 + partition as i32,
            Self::Api => 0x2_0000,
            Self::Rebuild => 0x3_0000,
        }
    }
}

/// Takes the lock for this session if nobody else holds it. It is held until the connection ends.
pub async fn try_lock(conn: &mut PgConnection, lock: Lock) -> Result<bool, Error> {
    let taken =
        sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1, $2) AS "taken!""#, NAMESPACE, lock.key())
            .fetch_one(conn)
            .await?;
    Ok(taken)
}

/// Gives the lock back; `false` when this session did not hold it.
pub async fn unlock(conn: &mut PgConnection, lock: Lock) -> Result<bool, Error> {
    let released =
        sqlx::query_scalar!(r#"SELECT pg_advisory_unlock($1, $2) AS "released!""#, NAMESPACE, lock.key())
            .fetch_one(conn)
            .await?;
    Ok(released)
}
