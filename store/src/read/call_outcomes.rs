//! Outcomes of recorded calls.

use chrono::{DateTime, TimeDelta, Utc};
use ledger::{StatusCode, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;

/// A recorded call, as far as its outcome is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedCall {
    /// User who made the call.
    pub user: UserId,
    /// Time of the call.
    pub created_at: DateTime<Utc>,
    /// HTTP status of the answer, once that is known.
    pub status_code: Option<StatusCode>,
    /// Duration in milliseconds.
    pub response_time_ms: Option<u32>,
    /// Bytes of the response.
    pub response_size: Option<u64>,
    /// Whether it counts.
    pub counted: bool,
}

/// The owner's call of this id; whoever's it is when no owner is given, which is for services alone. None for an id
/// that the api did not make: the ids of its calls are UUIDv7 of the call's own time, which finds the partition.
pub async fn find(
    conn: &mut PgConnection,
    owner: Option<UserId>,
    call_id: Uuid,
) -> Result<Option<RecordedCall>, Error> {
    let Some(from) = made_at(call_id) else { return Ok(None) };
    // The condition on the id's version is that of the index by id, which is not used without it.
    let row = sqlx::query!(
        "SELECT user_id, created_at, status_code, response_time_ms, response_size, counted
         FROM api_usage WHERE id = $1 AND get_byte(uuid_send(id), 6) >> 4 = 7
             AND created_at >= $2 AND created_at < $3 AND ($4::uuid IS NULL OR user_id = $4)",
        call_id,
        from,
        from + TimeDelta::milliseconds(1),
        owner.map(UserId::get)
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let inconsistent =
            |column, value: i64| Error::Inconsistent { table: "api_usage", column, value: value.to_string() };
        let status_code = row.status_code.map(|code| {
            let known = u64::try_from(code).ok().and_then(|code| StatusCode::new(code).ok());
            known.ok_or_else(|| inconsistent("status_code", code.into()))
        });
        Ok(RecordedCall {
            user: UserId::new(row.user_id),
            created_at: row.created_at,
            status_code: status_code.transpose()?,
            response_time_ms: row.response_time_ms.and_then(|ms| u32::try_from(ms).ok()),
            response_size: row.response_size.and_then(|size| u64::try_from(size).ok()),
            counted: row.counted,
        })
    })
    .transpose()
}

/// The millisecond of a UUIDv7.
fn made_at(id: Uuid) -> Option<DateTime<Utc>> {
    if id.get_version_num() != 7 {
        return None;
    }
    let millis = i64::try_from(id.as_u128() >> 80).ok()?;
    DateTime::from_timestamp_millis(millis)
}
