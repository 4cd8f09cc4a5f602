//! Holders of session locks: who holds one, when it last said so, and the end of a session that is silent.
//!
//! A lock lasts as long as its session, and a session as long as its connection: a process that is frozen keeps it,
//! since the kernel goes on answering for it, and so does one whose network is silent. So the holder says again and
//! again that it is there, and whoever waits for the lock ends the session of a holder that does not.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::session_locks::{self, Lock};
use crate::Error;
use crate::connect::second_of;

/// A holder that has said nothing for so long is silent; it says something every second at least.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);
/// A silent holder is met so often in a row before its session is ended: after a time in which the database itself
/// stood still everybody's last word is old, and the next one is on its way.
const SILENT_LOOKS: u32 = 5;

/// What somebody who waits for a lock has seen of its holder.
#[derive(Debug, Default)]
pub struct Vigil {
    silent_looks: u32,
    is_others: bool,
}

impl Vigil {
    /// Whether the lock is another process's, and not that of an earlier session of the one that waits.
    pub fn is_others(&self) -> bool {
        self.is_others
    }
}

/// Outcome of an attempt to take a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// This session holds it from now on.
    Taken(Predecessor),
    /// Another session holds it.
    Held,
}

/// The holder before this one, as far as the next one has to care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predecessor {
    /// There was none, it has handed the lock back, or it was this very process.
    Done,
    /// Its session was lost or ended, so many milliseconds after its last word; something of it may be under way.
    Lost {
        /// Age of its last word.
        age_ms: u64,
    },
}

/// Takes the lock for the process `holder` if no session holds it. If one does that is `holder`'s own, an earlier one,
/// or that of a holder which is silent, that session is ended, and the lock is free a moment later.
pub async fn try_take(
    conn: &mut PgConnection,
    lock: Lock,
    holder: Uuid,
    vigil: &mut Vigil,
) -> Result<Attempt, Error> {
    if session_locks::try_lock(conn, lock).await? {
        *vigil = Vigil::default();
        end_second(conn, lock).await?;
        return Ok(Attempt::Taken(note(conn, lock, holder).await?));
    }
    let found = sqlx::query!(
        r#"SELECT holder, (1000 * EXTRACT(EPOCH FROM clock_timestamp() - heartbeat_at))::bigint AS "age_ms!"
           FROM lock_holders WHERE lock = $1"#,
        lock.key()
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(found) = found else { return Ok(Attempt::Held) };
    let age_ms = u64::try_from(found.age_ms).unwrap_or(0);
    vigil.is_others = found.holder != holder;
    if !vigil.is_others {
        end_session(conn, lock, holder).await?;
    } else if Duration::from_millis(age_ms) > SILENT_AFTER {
        vigil.silent_looks += 1;
        if vigil.silent_looks >= SILENT_LOOKS && end_session(conn, lock, found.holder).await? {
            tracing::warn!(holder = %found.holder, ?lock, age_ms, "a silent process is relieved: its session is ended");
        }
    } else {
        vigil.silent_looks = 0;
    }
    Ok(Attempt::Held)
}

/// Notes that this session, which has just taken the lock, holds it for `holder`.
async fn note(conn: &mut PgConnection, lock: Lock, holder: Uuid) -> Result<Predecessor, Error> {
    let before = sqlx::query!(
        r#"SELECT holder, is_released,
                  (1000 * EXTRACT(EPOCH FROM clock_timestamp() - heartbeat_at))::bigint AS "age_ms!"
           FROM lock_holders WHERE lock = $1"#,
        lock.key()
    )
    .fetch_optional(&mut *conn)
    .await?;
    let noted = sqlx::query!(
        "INSERT INTO lock_holders (lock, holder, backend_pid, backend_start, heartbeat_at, is_released)
         SELECT $1, $2, pid, backend_start, clock_timestamp(), false
         FROM pg_stat_activity WHERE pid = pg_backend_pid()
         ON CONFLICT (lock) DO UPDATE SET
             holder = excluded.holder, backend_pid = excluded.backend_pid, backend_start = excluded.backend_start,
             heartbeat_at = excluded.heartbeat_at, is_released = false",
        lock.key(),
        holder,
    )
    .execute(conn)
    .await?
    .rows_affected();
    crate::error::expect_rows("noting the holder of a lock", 1, noted)?;
    Ok(match before {
        Some(before) if before.holder != holder && !before.is_released => {
            Predecessor::Lost { age_ms: u64::try_from(before.age_ms).unwrap_or(0) }
        }
        _ => Predecessor::Done,
    })
}

/// Ends the session that holds the lock for `holder`, and its second one, if they are still there; `false` when they
/// are not. A backend that is frozen itself ends when it goes on.
async fn end_session(conn: &mut PgConnection, lock: Lock, holder: Uuid) -> Result<bool, Error> {
    let ended = sqlx::query_scalar!(
        r#"SELECT bool_or(pg_terminate_backend(activity.pid)) AS "ended"
           FROM pg_stat_activity AS activity
           JOIN lock_holders ON activity.pid = backend_pid AND activity.backend_start = lock_holders.backend_start
                OR activity.application_name = $3
           WHERE lock = $1 AND holder = $2 AND activity.pid <> pg_backend_pid()
             AND activity.datname = current_database()"#,
        lock.key(),
        holder,
        second_of(holder),
    )
    .fetch_one(conn)
    .await?;
    Ok(ended.unwrap_or(false))
}

/// Ends the second session of whoever held the lock before: the first one may have ended by itself.
async fn end_second(conn: &mut PgConnection, lock: Lock) -> Result<(), Error> {
    let before = sqlx::query_scalar!("SELECT holder FROM lock_holders WHERE lock = $1", lock.key())
        .fetch_optional(&mut *conn)
        .await?;
    let Some(before) = before else { return Ok(()) };
    sqlx::query!(
        r#"SELECT bool_or(pg_terminate_backend(pid)) AS "ended" FROM pg_stat_activity
           WHERE application_name = $1 AND datname = current_database()"#,
        second_of(before)
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

/// The holder's word that it is there, over the session that holds the lock; `false` when the lock is not this
/// session's.
pub async fn confirm(conn: &mut PgConnection, lock: Lock, holder: Uuid) -> Result<bool, Error> {
    let confirmed = sqlx::query!(
        "UPDATE lock_holders SET heartbeat_at = clock_timestamp()
         WHERE lock = $1 AND holder = $2 AND backend_pid = pg_backend_pid()",
        lock.key(),
        holder,
    )
    .execute(conn)
    .await?;
    Ok(confirmed.rows_affected() == 1)
}

/// The holder's word that it is there, over another session than the one that holds the lock; nothing when it does not
/// hold it.
pub async fn beat(conn: &mut PgConnection, lock: Lock, holder: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE lock_holders SET heartbeat_at = clock_timestamp() WHERE lock = $1 AND holder = $2",
        lock.key(),
        holder,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that the holder hands the lock back, with nothing under way. The lock itself goes with its session.
pub async fn release(conn: &mut PgConnection, lock: Lock, holder: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE lock_holders SET is_released = true WHERE lock = $1 AND holder = $2",
        lock.key(),
        holder
    )
    .execute(conn)
    .await?;
    Ok(())
}
