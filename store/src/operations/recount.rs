//! What is stored beside what was counted anew from the log: read from one end to the other, a row at a time, and
//! mended.
//!
//! Each table is read once and in whatever order it lies in, so that reading costs the same a row however large it is;
//! whoever compares sorts the rows by their users. Nothing here holds more than a row.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use ledger::{KeyId, Month, UserId};
use sqlx::postgres::{PgRow, Postgres};
use sqlx::{PgConnection, QueryBuilder, Row as _};
use uuid::Uuid;

use crate::position::seq_to_column;
use crate::projection::audit_chain::Hash;
use crate::projection::periods::LateUnits;
use crate::projection::summaries::key_usage::KeyMonth;
use crate::{Error, Position};

/// Sums of a user's month.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// Units by category (analyze, auth, other) since the last reset.
    pub units: [i64; 3],
    /// Sum of the known response times.
    pub total_response_time_ms: i64,
    /// Calls with a known response time.
    pub timed_calls: i64,
    /// The latest time of the events that made it.
    pub last_updated: DateTime<Utc>,
    /// The month's last reset; zero when there was none.
    pub reset: Position,
}

/// A stored summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSummary {
    /// User of the month.
    pub user: UserId,
    /// The month.
    pub month: Month,
    /// Its sums.
    pub sums: Sums,
    /// Its limits: of all units, and of analyze.
    pub limits: [Option<i64>; 2],
    /// The limits of the plan in force at the month's end.
    pub plan_limits: [Option<i64>; 2],
}

/// Sums of the calls of a user in a month, counted and not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CallSums {
    /// Calls.
    pub calls: i64,
    /// Those of them that count.
    pub counted_calls: i64,
    /// Units by category (analyze, auth, other).
    pub units: [i64; 3],
    /// Units of those that count.
    pub counted_units: i64,
    /// Sum of the known response times.
    pub total_response_time_ms: i64,
    /// Calls with a known response time.
    pub timed_calls: i64,
    /// All [`checksum`]s, exclusive-or: tells whether they are the same calls.
    pub checksum: i64,
}

/// The stored calls of a user in a month, summed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCalls {
    /// Their user.
    pub user: UserId,
    /// Their sums.
    pub sums: CallSums,
}

/// A stored link of an audit chain: what of it follows from the log alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLink {
    /// User of the chain.
    pub user: UserId,
    /// Its position.
    pub position: Position,
    /// Its columns, as [`LINK_COLUMNS`] names them.
    pub columns: [Option<String>; LINK_COLUMNS.len()],
}

/// Columns of a link, in the order of [`StoredLink::columns`].
pub const LINK_COLUMNS: [&str; 12] = [
    "event_id",
    "action",
    "token_id",
    "token_type",
    "replaced_id",
    "purpose",
    "fingerprint",
    "actor_kind",
    "actor_id",
    "created_at",
    "event_hash",
    "hash",
];

/// Stored units of an API key in a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredKeyUsage {
    /// The key, its user and the month.
    pub of: KeyMonth,
    /// Counted units since the month's last reset.
    pub units: i64,
}

/// A token that a user has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeptToken {
    /// Its owner.
    pub user: UserId,
    /// Provider whose API it opens.
    pub token_type: String,
    /// Its id.
    pub id: Uuid,
}

const LOW_BITS: i64 = 0x7fff_ffff;
const ID_BITS: i64 = 0xffff_ffff_ffff;
const COUNTED_BIT: i64 = 1 << 30;

/// A number that depends on a call's id, time, position, API key and whether it counts: [`calls`] computes it in SQL.
pub fn checksum(id: Uuid, created_at_us: i64, position: Position, counted: bool, key: Option<KeyId>) -> i64 {
    let id = id.as_u64_pair().1.cast_signed() & ID_BITS;
    let place = seq_to_column(position.seq) & LOW_BITS;
    let counted = if counted { COUNTED_BIT } else { 0 };
    let key = key.map_or(0, |key| key.get().as_u64_pair().1.cast_signed() & ID_BITS);
    let rest = created_at_us ^ (place << 4) ^ i64::from(position.idx) ^ counted ^ key;
    id ^ ((id & LOW_BITS) * (rest & LOW_BITS))
}

/// Gives `take` every summary, of one user or of all.
///
/// # Errors
/// The database's, or the first one of `take`.
pub async fn summaries<E: From<Error>>(
    conn: &mut PgConnection,
    user: Option<UserId>,
    mut take: impl FnMut(StoredSummary) -> Result<(), E>,
) -> Result<(), E> {
    let mut query = QueryBuilder::new(
        "SELECT s.user_id, s.month_year, s.analyze_calls, s.auth_calls, s.other_calls, s.total_response_time_ms,
                s.timed_calls, s.last_updated, s.reset_seq, s.reset_idx, s.monthly_api_limit, s.analyze_limit,
                p.monthly_api_limit, p.analyze_limit
         FROM monthly_usage_summary s
         LEFT JOIN LATERAL plan_at(s.user_id, month_end(s.month_year) - interval '1 microsecond') p ON TRUE",
    );
    of_user(&mut query, "s.user_id", user);
    each(conn, query, |row| {
        let text: String = row.try_get(1)?;
        take_row(&mut take, summary(row, text))
    })
    .await
}

fn summary(row: &PgRow, month: String) -> Result<StoredSummary, Error> {
    Ok(StoredSummary {
        user: UserId::new(row.try_get(0)?),
        month: month.parse().map_err(|_| Error::Inconsistent {
            table: "monthly_usage_summary",
            column: "month_year",
            value: month,
        })?,
        sums: Sums {
            units: [row.try_get(2)?, row.try_get(3)?, row.try_get(4)?],
            total_response_time_ms: row.try_get(5)?,
            timed_calls: row.try_get(6)?,
            last_updated: row.try_get(7)?,
            reset: Position::from_columns(row.try_get(8)?, row.try_get(9)?),
        },
        limits: [row.try_get(10)?, row.try_get(11)?],
        plan_limits: [row.try_get(12)?, row.try_get(13)?],
    })
}

/// Gives `take` all units that came after their months' closings, of one user or of all; without those that are late
/// because a dead letter was applied later than its place in the log, which does not follow from it.
///
/// # Errors
/// The database's, or the first one of `take`.
pub async fn late_units<E: From<Error>>(
    conn: &mut PgConnection,
    user: Option<UserId>,
    mut take: impl FnMut(LateUnits) -> Result<(), E>,
) -> Result<(), E> {
    let mut query = QueryBuilder::new(
        "SELECT user_id, of_month, closings, analyze_units - retried_analyze, auth_units - retried_auth,
                other_units - retried_other
         FROM late_units",
    );
    of_user(&mut query, "user_id", user);
    each(conn, query, |row| take_row(&mut take, late(row))).await
}

fn late(row: &PgRow) -> Result<LateUnits, Error> {
    let of_month: String = row.try_get(1)?;
    Ok(LateUnits {
        user: UserId::new(row.try_get(0)?),
        of_month: of_month.parse().map_err(|_| Error::Inconsistent {
            table: "late_units",
            column: "of_month",
            value: of_month,
        })?,
        closings: row.try_get(2)?,
        units: [row.try_get(3)?, row.try_get(4)?, row.try_get(5)?],
        retried: [0; 3],
    })
}

/// Gives `take` the units of every API key and month, of one user or of all.
///
/// # Errors
/// The database's, or the first one of `take`.
pub async fn key_usage<E: From<Error>>(
    conn: &mut PgConnection,
    user: Option<UserId>,
    mut take: impl FnMut(StoredKeyUsage) -> Result<(), E>,
) -> Result<(), E> {
    let mut query = QueryBuilder::new("SELECT user_id, month_year, key_id, units FROM monthly_key_usage");
    of_user(&mut query, "user_id", user);
    let usage = |row: &PgRow| -> Result<StoredKeyUsage, Error> {
        let month: String = row.try_get(1)?;
        let month = month.parse().map_err(|_| Error::Inconsistent {
            table: "monthly_key_usage",
            column: "month_year",
            value: month,
        })?;
        let of = (UserId::new(row.try_get(0)?), month, KeyId::new(row.try_get(2)?));
        Ok(StoredKeyUsage { of, units: row.try_get(3)? })
    };
    each(conn, query, |row| take_row(&mut take, usage(row))).await
}

/// Gives `take` the calls of a month, summed by their users; of one user or of all.
///
/// # Errors
/// The database's, or the first one of `take`.
pub async fn calls<E: From<Error>>(
    conn: &mut PgConnection,
    month: Month,
    user: Option<UserId>,
    mut take: impl FnMut(StoredCalls) -> Result<(), E>,
) -> Result<(), E> {
    let mut query = QueryBuilder::new(
        "SELECT user_id, count(*), count(*) FILTER (WHERE counted),
                COALESCE(sum(units) FILTER (WHERE category = 'analyze'), 0),
                COALESCE(sum(units) FILTER (WHERE category = 'auth'), 0),
                COALESCE(sum(units) FILTER (WHERE category = 'other'), 0),
                COALESCE(sum(units) FILTER (WHERE counted), 0),
                COALESCE(sum(response_time_ms), 0), count(response_time_ms),
                bit_xor(low_id # ((low_id & 2147483647)
                    * ((at_us # ((log_seq & 2147483647) << 4) # log_idx # CASE WHEN counted THEN 1073741824 ELSE 0 END
                              # CASE WHEN key_id IS NULL THEN 0
                                     ELSE ('x' || right(key_id::text, 12))::bit(48)::bigint END)
                       & 2147483647)))
         FROM (SELECT *, ('x' || right(id::text, 12))::bit(48)::bigint AS low_id,
                      (extract(epoch FROM created_at) * 1000000)::bigint AS at_us
               FROM api_usage WHERE created_at >= ",
    );
    query.push_bind(month.start()).push(" AND created_at < ").push_bind(month.end());
    if let Some(user) = user {
        query.push(" AND user_id = ").push_bind(user.get());
    }
    query.push(") u GROUP BY user_id");
    each(conn, query, |row| take_row(&mut take, stored_calls(row))).await
}

fn stored_calls(row: &PgRow) -> Result<StoredCalls, Error> {
    Ok(StoredCalls {
        user: UserId::new(row.try_get(0)?),
        sums: CallSums {
            calls: row.try_get(1)?,
            counted_calls: row.try_get(2)?,
            units: [row.try_get(3)?, row.try_get(4)?, row.try_get(5)?],
            counted_units: row.try_get(6)?,
            total_response_time_ms: row.try_get(7)?,
            timed_calls: row.try_get(8)?,
            checksum: row.try_get(9)?,
        },
    })
}

/// Gives `take` every link of the audit chains in the log's order; of one user or of all.
///
/// # Errors
/// The database's, or the first one of `take`.
pub async fn links<E: From<Error>>(
    conn: &mut PgConnection,
    user: Option<UserId>,
    mut take: impl FnMut(StoredLink) -> Result<(), E>,
) -> Result<(), E> {
    let mut query = QueryBuilder::new(
        "SELECT user_id, log_seq, log_idx, event_id::text, action, token_id::text, token_type, replaced_id::text,
                purpose, fingerprint, actor_kind, actor_id, created_at, event_hash, hash
         FROM token_audit",
    );
    of_user(&mut query, "user_id", user);
    query.push(" ORDER BY log_seq, log_idx, user_id");
    each(conn, query, |row| take_row(&mut take, link(row))).await
}

fn link(row: &PgRow) -> Result<StoredLink, Error> {
    let text = |index: usize| row.try_get::<Option<String>, _>(index);
    let bytes = |index: usize| row.try_get::<Vec<u8>, _>(index).map(|bytes| Some(hex(&bytes)));
    Ok(StoredLink {
        user: UserId::new(row.try_get(0)?),
        position: Position::from_columns(row.try_get(1)?, row.try_get(2)?),
        columns: [
            text(3)?,
            text(4)?,
            text(5)?,
            text(6)?,
            text(7)?,
            text(8)?,
            text(9)?,
            text(10)?,
            text(11)?,
            Some(row.try_get::<DateTime<Utc>, _>(12)?.to_rfc3339()),
            bytes(13)?,
            bytes(14)?,
        ],
    })
}

/// A hash as its column is shown.
pub fn hash_text(hash: &Hash) -> String {
    hex(hash)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Gives `take` every stored token; of one user or of all.
///
/// # Errors
/// The database's, or the first one of `take`.
pub async fn tokens<E: From<Error>>(
    conn: &mut PgConnection,
    user: Option<UserId>,
    mut take: impl FnMut(KeptToken) -> Result<(), E>,
) -> Result<(), E> {
    let mut query = QueryBuilder::new("SELECT user_id, token_type, id FROM user_tokens");
    of_user(&mut query, "user_id", user);
    let token = |row: &PgRow| -> Result<KeptToken, Error> {
        Ok(KeptToken { user: UserId::new(row.try_get(0)?), token_type: row.try_get(1)?, id: row.try_get(2)? })
    };
    each(conn, query, |row| take_row(&mut take, token(row))).await
}

/// Positions of dead letters after `after`, of frames up to `to_seq`, in the log's order; at most `max`.
pub async fn dead_letters(
    conn: &mut PgConnection,
    after: Position,
    to_seq: u64,
    max: i64,
) -> Result<Vec<Position>, Error> {
    let (log_seq, log_idx) = after.columns();
    let rows: Vec<(i64, i32)> = sqlx::query_as(
        "SELECT log_seq, log_idx FROM dead_letters WHERE (log_seq, log_idx) > ($1, $2) AND log_seq <= $3
         ORDER BY log_seq, log_idx LIMIT $4",
    )
    .bind(log_seq)
    .bind(log_idx)
    .bind(seq_to_column(to_seq))
    .bind(max)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(seq, idx)| Position::from_columns(seq, idx)).collect())
}

/// Number of dead letters of frames up to `to_seq`, and all [`dead_letter_word`]s, exclusive-or.
pub async fn dead_letters_digest(conn: &mut PgConnection, to_seq: u64) -> Result<(i64, i64), Error> {
    let digest: (i64, i64) = sqlx::query_as(
        "SELECT count(*), COALESCE(bit_xor(log_seq << 16 | log_idx), 0) FROM dead_letters WHERE log_seq <= $1",
    )
    .bind(seq_to_column(to_seq))
    .fetch_one(conn)
    .await?;
    Ok(digest)
}

/// A dead letter's position as a number.
pub fn dead_letter_word(position: Position) -> i64 {
    (seq_to_column(position.seq) << 16) | i64::from(position.idx)
}

fn of_user(query: &mut QueryBuilder<'_, Postgres>, column: &str, user: Option<UserId>) {
    if let Some(user) = user {
        query.push(format!(" WHERE {column} = ")).push_bind(user.get());
    }
}

/// A failure of the database or of whoever takes the rows.
enum Stopped<E> {
    Store(Error),
    Taken(E),
}

impl<E> From<sqlx::Error> for Stopped<E> {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

fn take_row<T, E>(
    take: &mut impl FnMut(T) -> Result<(), E>,
    row: Result<T, Error>,
) -> Result<(), Stopped<E>> {
    take(row.map_err(Stopped::Store)?).map_err(Stopped::Taken)
}

async fn each<E: From<Error>>(
    conn: &mut PgConnection,
    mut query: QueryBuilder<'_, Postgres>,
    mut take: impl FnMut(&PgRow) -> Result<(), Stopped<E>>,
) -> Result<(), E> {
    let mut rows = query.build().persistent(false).fetch(conn);
    loop {
        let row = rows.try_next().await.map_err(Error::from)?;
        let Some(row) = row else { return Ok(()) };
        take(&row).map_err(|stopped| match stopped {
            Stopped::Store(error) => error.into(),
            Stopped::Taken(error) => error,
        })?;
    }
}
