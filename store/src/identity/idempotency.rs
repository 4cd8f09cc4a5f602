//! Idempotency keys: the first request's event id, and its answer once there is one.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;

/// Name of a request: its caller, its target, and the idempotency key that the client chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// Our id of the caller.
    pub principal: Uuid,
    /// Role in which it calls: what an admin was answered is not for the same account as a user.
    pub role: &'static str,
    /// HTTP method.
    pub method: String,
    /// Path, without the query.
    pub path: String,
    /// `Idempotency-Key`.
    pub key: String,
}

/// An idempotency key as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// SHA-256 of what the first request asked for: its body, its query, and headers that change their meaning.
    pub body_hash: Vec<u8>,
    /// Id of the event that the request publishes, every time that it is tried.
    pub event_id: Uuid,
    /// Time at which the key was first seen: the event's time, every time that the request is tried.
    pub created_at: DateTime<Utc>,
    /// End of the time in which the request counts as running, unless it has been answered.
    pub locked_until: DateTime<Utc>,
    /// The final answer, once there is one.
    pub answer: Option<Answer>,
}

/// A final answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status_code: u16,
    /// Its own headers, as `name: value` lines.
    pub headers: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Claims an idempotency key for a new request: `false` when it is there already.
pub async fn insert(
    conn: &mut PgConnection,
    request: &RequestKey,
    body_hash: &[u8],
    event_id: Uuid,
    now: DateTime<Utc>,
    locked_until: DateTime<Utc>,
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "INSERT INTO public.idempotency_keys
             (principal, role, method, path, key, body_hash, event_id, locked_until, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT DO NOTHING",
        request.principal,
        request.role,
        request.method,
        request.path,
        request.key,
        body_hash,
        event_id,
        locked_until,
        now
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The idempotency key as it stands.
pub async fn find(conn: &mut PgConnection, request: &RequestKey) -> Result<Option<Record>, Error> {
    let row = sqlx::query!(
        "SELECT body_hash, event_id, created_at, locked_until, status_code, headers, response
         FROM public.idempotency_keys
         WHERE principal = $1 AND role = $2 AND method = $3 AND path = $4 AND key = $5",
        request.principal,
        request.role,
        request.method,
        request.path,
        request.key
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let answer = match row.status_code {
        Some(status) => Some(Answer {
            status_code: u16::try_from(status).map_err(|_| Error::Inconsistent {
                table: "idempotency_keys",
                column: "status_code",
                value: status.to_string(),
            })?,
            headers: row.headers.unwrap_or_default(),
            body: row.response.unwrap_or_default(),
        }),
        None => None,
    };
    Ok(Some(Record {
        body_hash: row.body_hash,
        event_id: row.event_id,
        created_at: row.created_at,
        locked_until: row.locked_until,
        answer,
    }))
}

/// Takes over a request that was never answered: `false` when somebody else was faster, or it has been answered.
pub async fn take_over(
    conn: &mut PgConnection,
    request: &RequestKey,
    seen_locked_until: DateTime<Utc>,
    locked_until: DateTime<Utc>,
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "UPDATE public.idempotency_keys SET locked_until = $7
         WHERE principal = $1 AND role = $2 AND method = $3 AND path = $4 AND key = $5
             AND locked_until = $6 AND status_code IS NULL",
        request.principal,
        request.role,
        request.method,
        request.path,
        request.key,
        seen_locked_until,
        locked_until
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps the final answer of the try that holds the key until `locked_until`: `false` when another one has taken over.
pub async fn finish(
    conn: &mut PgConnection,
    request: &RequestKey,
    locked_until: DateTime<Utc>,
    answer: &Answer,
) -> Result<bool, Error> {
    let status_code = i16::try_from(answer.status_code).unwrap_or(i16::MAX);
    let done = sqlx::query!(
        "UPDATE public.idempotency_keys SET status_code = $6, headers = $7, response = $8
         WHERE principal = $1 AND role = $2 AND method = $3 AND path = $4 AND key = $5
             AND locked_until = $9 AND status_code IS NULL",
        request.principal,
        request.role,
        request.method,
        request.path,
        request.key,
        status_code,
        answer.headers,
        answer.body,
        locked_until
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets the next try with this key run at once; it will publish the same event. Changes nothing when another try has
/// taken over from the one that held the key until `locked_until`.
pub async fn release(
    conn: &mut PgConnection,
    request: &RequestKey,
    locked_until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    take_over(conn, request, locked_until, now).await?;
    Ok(())
}

/// Forgets a key if it is older than `before`, so that it can be used anew.
pub async fn forget(
    conn: &mut PgConnection,
    request: &RequestKey,
    before: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM public.idempotency_keys
         WHERE principal = $1 AND role = $2 AND method = $3 AND path = $4 AND key = $5 AND created_at < $6",
        request.principal,
        request.role,
        request.method,
        request.path,
        request.key,
        before
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes keys older than `before`, at most `limit` of them; answers how many.
pub async fn delete_old(conn: &mut PgConnection, before: DateTime<Utc>, limit: i64) -> Result<u64, Error> {
    let done = sqlx::query!(
        "DELETE FROM public.idempotency_keys WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM public.idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2))",
        before,
        limit
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
