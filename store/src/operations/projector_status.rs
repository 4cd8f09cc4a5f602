//! Each worker's word on itself; read by readyz and metrics.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::position::{seq_from_column, seq_to_column};

/// Occupation of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waits to take over, while another one projects.
    Standby,
    /// Projects.
    Running,
    /// Tries again, for something is away.
    Retrying,
    /// Has stopped: the log can't be trusted, and an operator must act.
    Stopped,
}

impl State {
    /// The name in the table and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Stopped => "stopped",
        }
    }
}

/// A worker's word on itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The worker.
    pub instance: Uuid,
    /// Its occupation.
    pub state: State,
    /// The reason, if it is not simply running.
    pub reason: Option<String>,
    /// The last sequence that it projected.
    pub seq: u64,
    /// Milliseconds since it last said so; workers say so every second.
    pub age_ms: u64,
}

/// Notes what this worker is doing.
pub async fn set(
    conn: &mut PgConnection,
    partition: i16,
    instance: Uuid,
    state: State,
    reason: Option<&str>,
    seq: u64,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO projector_status (partition, instance, state, reason, seq, heartbeat_at)
         VALUES ($1, $2, $3, $4, $5, clock_timestamp())
         ON CONFLICT (partition, instance) DO UPDATE SET
             state = excluded.state, reason = excluded.reason, seq = excluded.seq,
             heartbeat_at = excluded.heartbeat_at",
        partition,
        instance,
        state.as_str(),
        reason,
        seq_to_column(seq),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets a worker that ends, and all that were silent for a minute.
pub async fn forget(conn: &mut PgConnection, partition: i16, instance: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM projector_status
         WHERE partition = $1 AND (instance = $2 OR heartbeat_at < clock_timestamp() - interval '1 minute')",
        partition,
        instance,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A worker says something every second; one that was silent for so long is gone.
pub const SILENCE_MS: u64 = 5_000;

/// The worker that matters: the active one if there is any, else the one heard of last.
pub async fn read(conn: &mut PgConnection, partition: i16) -> Result<Option<Status>, Error> {
    // The interval is that of `SILENCE_MS`; a checked query is a literal.
    let row = sqlx::query!(
        r#"SELECT instance, state, reason, seq,
                  (1000 * EXTRACT(EPOCH FROM clock_timestamp() - heartbeat_at))::bigint AS "age_ms!"
           FROM projector_status WHERE partition = $1
           ORDER BY (state <> 'standby' AND heartbeat_at > clock_timestamp() - interval '5 seconds') DESC,
                    heartbeat_at DESC
           LIMIT 1"#,
        partition
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let state = [State::Standby, State::Running, State::Retrying, State::Stopped]
        .into_iter()
        .find(|state| state.as_str() == row.state)
        .ok_or(Error::Inconsistent { table: "projector_status", column: "state", value: row.state })?;
    Ok(Some(Status {
        instance: row.instance,
        state,
        reason: row.reason,
        seq: seq_from_column(row.seq),
        age_ms: u64::try_from(row.age_ms).unwrap_or(0),
    }))
}
