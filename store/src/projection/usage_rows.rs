//! Raw calls (`api_usage`): written with COPY BINARY, straight into the month's partition.

use chrono::{DateTime, Utc};
use ledger::{Category, KeyId, Month, UserId};
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use crate::projection::partitions;
use crate::{Error, Position};

const COLUMNS: &str = "id, user_id, created_at, log_seq, log_idx, units, response_time_ms, request_size, \
     response_size, status_code, counted, category, month_year, method, endpoint, ip_address, user_agent, key_id";
const COLUMN_COUNT: i16 = 18;

/// PGCOPY, no flags, no header extension (PostgreSQL manual, COPY, "Binary Format").
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// 2000-01-01T00:00:00Z, from which PostgreSQL counts, in microseconds of the Unix epoch.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Key of a call's row. One user's id at one time is one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// User who made the call.
    pub user: UserId,
    /// Time of the call, which finds its partition.
    pub created_at: DateTime<Utc>,
    /// The row's id.
    pub id: Uuid,
}

impl RowKey {
    /// The columns of many keys: users, times, ids.
    pub(crate) fn columns(keys: &[Self]) -> (Vec<Uuid>, Vec<DateTime<Utc>>, Vec<Uuid>) {
        let users = keys.iter().map(|key| key.user.get()).collect();
        let times = keys.iter().map(|key| key.created_at).collect();
        (users, times, keys.iter().map(|key| key.id).collect())
    }
}

/// A call as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct UsageRow<'a> {
    /// The row's id: derived for a client's event, the event's own otherwise.
    pub id: Uuid,
    /// User who made the call.
    pub user: UserId,
    /// Time at which it was admitted or happened; decides the month.
    pub created_at: DateTime<Utc>,
    /// The month of `created_at`, as `YYYY-MM`.
    pub month_year: &'a str,
    /// Position in the log.
    pub position: Position,
    /// Its cost in units.
    pub units: u32,
    /// Duration in milliseconds.
    pub response_time_ms: Option<u32>,
    /// Size of the request in bytes.
    pub request_size: Option<u64>,
    /// Size of the response in bytes.
    pub response_size: Option<u64>,
    /// HTTP status of the answer, if known.
    pub status_code: Option<u16>,
    /// Whether it counts.
    pub counted: bool,
    /// Category that it counts in.
    pub category: Category,
    /// HTTP method, if there was one.
    pub method: Option<&'a str>,
    /// The recorded endpoint.
    pub endpoint: &'a str,
    /// The client's address, if known.
    pub ip_address: Option<&'a str>,
    /// The client's user agent, if known.
    pub user_agent: Option<&'a str>,
    /// The API key that it came with, if it did.
    pub key_id: Option<KeyId>,
}

/// Appends the row as one tuple of COPY's binary format.
pub fn encode(row: &UsageRow<'_>, out: &mut Vec<u8>) {
    let (log_seq, log_idx) = row.position.columns();
    out.extend_from_slice(&COLUMN_COUNT.to_be_bytes());
    put(out, row.id.as_bytes());
    put(out, row.user.get().as_bytes());
    put(out, &time_to_column(row.created_at).to_be_bytes());
    put(out, &log_seq.to_be_bytes());
    put(out, &log_idx.to_be_bytes());
    put(out, &row.units.cast_signed().to_be_bytes());
    put_option(out, row.response_time_ms.map(|ms| i32::try_from(ms).unwrap_or(i32::MAX).to_be_bytes()));
    put_option(out, row.request_size.map(|size| i64::try_from(size).unwrap_or(i64::MAX).to_be_bytes()));
    put_option(out, row.response_size.map(|size| i64::try_from(size).unwrap_or(i64::MAX).to_be_bytes()));
    put_option(out, row.status_code.map(|status| status.cast_signed().to_be_bytes()));
    put(out, &[u8::from(row.counted)]);
    put(out, row.category.as_str().as_bytes());
    put(out, row.month_year.as_bytes());
    put_option(out, row.method);
    put(out, row.endpoint.as_bytes());
    put_option(out, row.ip_address);
    put_option(out, row.user_agent);
    put_option(out, row.key_id.map(|key| key.get().into_bytes()));
}

fn put(out: &mut Vec<u8>, value: &[u8]) {
    let length = i32::try_from(value.len()).expect("a field is part of an event, which is 16 KiB at most");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}

fn put_option(out: &mut Vec<u8>, value: Option<impl AsRef<[u8]>>) {
    match value {
        Some(value) => put(out, value.as_ref()),
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}

/// Rows of one month as one buffer of COPY's binary format.
#[derive(Debug, Clone)]
pub struct CopyBuffer(Vec<u8>);

impl CopyBuffer {
    /// A buffer without rows, with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(bytes + HEADER.len() + TRAILER.len());
        buffer.extend_from_slice(HEADER);
        Self(buffer)
    }

    /// Appends tuples that [`encode`] made.
    pub fn push(&mut self, tuples: &[u8]) {
        self.0.extend_from_slice(tuples);
    }
}

/// Copies the rows into the month's partition, all or none.
///
/// # Errors
/// [`Error::Conflict`] when one of them is there already; the transaction is then to be rolled back to a savepoint.
pub async fn copy(conn: &mut PgConnection, month: Month, rows: &CopyBuffer) -> Result<u64, Error> {
    copy_into(conn, &partitions::table(month), COLUMNS, &rows.0).await
}

/// Inserts those of the month's rows that are not there yet and returns their keys: the way on after a conflict.
pub async fn insert_new(
    conn: &mut PgConnection,
    month: Month,
    rows: &CopyBuffer,
) -> Result<Vec<RowKey>, Error> {
    conn.execute(sqlx::raw_sql(
        "CREATE TEMPORARY TABLE IF NOT EXISTS staged_usage (LIKE api_usage) ON COMMIT DELETE ROWS;
         TRUNCATE staged_usage",
    ))
    .await?;
    copy_into(conn, "staged_usage", COLUMNS, &rows.0).await?;
    let table = partitions::table(month);
    let keys: Vec<(Uuid, DateTime<Utc>, Uuid)> = sqlx::query_as(&format!(
        "INSERT INTO {table} ({COLUMNS}) SELECT {COLUMNS} FROM staged_usage ORDER BY user_id, created_at, id
         ON CONFLICT DO NOTHING RETURNING user_id, created_at, id"
    ))
    .fetch_all(conn)
    .await?;
    let keys = keys.into_iter();
    Ok(keys.map(|(user, created_at, id)| RowKey { user: UserId::new(user), created_at, id }).collect())
}

/// Those of these calls that are stored.
pub async fn find(conn: &mut PgConnection, calls: &[RowKey]) -> Result<Vec<RowKey>, Error> {
    let (users, times, ids) = RowKey::columns(calls);
    // LIMIT keeps the subquery apart from the join: one look into one partition for each call.
    let found = sqlx::query!(
        r#"SELECT c.user_id AS "user_id!", c.created_at AS "created_at!", c.id AS "id!"
           FROM UNNEST($1::uuid[], $2::timestamptz[], $3::uuid[]) AS c (user_id, created_at, id)
           CROSS JOIN LATERAL (
               SELECT FROM api_usage u
               WHERE u.user_id = c.user_id AND u.created_at = c.created_at AND u.id = c.id
               LIMIT 1) o"#,
        &users,
        &times,
        &ids
    )
    .fetch_all(conn)
    .await?;
    let found = found.into_iter();
    Ok(found
        .map(|row| RowKey { user: UserId::new(row.user_id), created_at: row.created_at, id: row.id })
        .collect())
}

/// Copies a complete buffer of COPY's binary format into a table of ours.
pub(crate) async fn copy_into(
    conn: &mut PgConnection,
    table: &str,
    columns: &str,
    buffer: &[u8],
) -> Result<u64, Error> {
    let mut copy = conn.copy_in_raw(&format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)")).await?;
    // Every send is a write of its own: two make the message complete.
    copy.send(buffer).await?;
    copy.send(TRAILER.as_slice()).await?;
    Ok(copy.finish().await?)
}

/// A time in COPY's binary format.
pub(crate) fn time_to_column(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros() - POSTGRES_EPOCH_US
}

/// The header with which a buffer of COPY's binary format begins.
pub(crate) fn copy_header() -> &'static [u8] {
    HEADER
}
