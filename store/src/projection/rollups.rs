//! `usage_hourly` and `usage_daily`: calls and units per user, bucket and category, whatever was reset since.

use chrono::{DateTime, Utc};
use ledger::{Category, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;

/// Group of calls that is summed up on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// User who made the calls.
    pub user: UserId,
    /// Start of the hour or day.
    pub bucket: DateTime<Utc>,
    /// Their category.
    pub category: Category,
    /// Whether they count.
    pub counted: bool,
}

/// Amounts that are added to a sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta {
    /// Units.
    pub units: i64,
    /// Calls.
    pub calls: i64,
    /// Sum of the known response times.
    pub total_response_time_ms: i64,
    /// Number of calls with a known response time.
    pub timed_calls: i64,
}

impl std::ops::AddAssign for Delta {
    fn add_assign(&mut self, other: Self) {
        self.units += other.units;
        self.calls += other.calls;
        self.total_response_time_ms += other.total_response_time_ms;
        self.timed_calls += other.timed_calls;
    }
}

/// Adds to the hours. Groups are unique and sorted.
pub async fn add_hourly(conn: &mut PgConnection, deltas: &[(Group, Delta)]) -> Result<(), Error> {
    let c = Columns::of(deltas);
    sqlx::query!(
        "INSERT INTO usage_hourly AS h
             (user_id, bucket, category, counted, units, calls, total_response_time_ms, timed_calls)
         SELECT * FROM UNNEST($1::uuid[], $2::timestamptz[], $3::text[], $4::bool[], $5::bigint[], $6::bigint[],
                              $7::bigint[], $8::bigint[])
         ON CONFLICT (user_id, bucket, category, counted) DO UPDATE SET
             units = h.units + excluded.units, calls = h.calls + excluded.calls,
             total_response_time_ms = h.total_response_time_ms + excluded.total_response_time_ms,
             timed_calls = h.timed_calls + excluded.timed_calls",
        &c.user_id,
        &c.bucket,
        &c.category as &[&str],
        &c.counted,
        &c.units,
        &c.calls,
        &c.total_response_time_ms,
        &c.timed_calls,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Adds to the days. Groups are unique and sorted.
pub async fn add_daily(conn: &mut PgConnection, deltas: &[(Group, Delta)]) -> Result<(), Error> {
    let c = Columns::of(deltas);
    sqlx::query!(
        "INSERT INTO usage_daily AS d
             (user_id, bucket, category, counted, units, calls, total_response_time_ms, timed_calls)
         SELECT * FROM UNNEST($1::uuid[], $2::timestamptz[], $3::text[], $4::bool[], $5::bigint[], $6::bigint[],
                              $7::bigint[], $8::bigint[])
         ON CONFLICT (user_id, bucket, category, counted) DO UPDATE SET
             units = d.units + excluded.units, calls = d.calls + excluded.calls,
             total_response_time_ms = d.total_response_time_ms + excluded.total_response_time_ms,
             timed_calls = d.timed_calls + excluded.timed_calls",
        &c.user_id,
        &c.bucket,
        &c.category as &[&str],
        &c.counted,
        &c.units,
        &c.calls,
        &c.total_response_time_ms,
        &c.timed_calls,
    )
    .execute(conn)
    .await?;
    Ok(())
}

#[derive(Default)]
struct Columns {
    user_id: Vec<Uuid>,
    bucket: Vec<DateTime<Utc>>,
    category: Vec<&'static str>,
    counted: Vec<bool>,
    units: Vec<i64>,
    calls: Vec<i64>,
    total_response_time_ms: Vec<i64>,
    timed_calls: Vec<i64>,
}

impl Columns {
    fn of(deltas: &[(Group, Delta)]) -> Self {
        let mut columns = Self::default();
        for (group, delta) in deltas {
            columns.user_id.push(group.user.get());
            columns.bucket.push(group.bucket);
            columns.category.push(group.category.as_str());
            columns.counted.push(group.counted);
            columns.units.push(delta.units);
            columns.calls.push(delta.calls);
            columns.total_response_time_ms.push(delta.total_response_time_ms);
            columns.timed_calls.push(delta.timed_calls);
        }
        columns
    }
}
