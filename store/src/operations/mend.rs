//! Mending stored summaries by what they differ from the log at one position of it, while they go on.

use chrono::{DateTime, Utc};
use ledger::{Month, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::operations::recount::Sums;

/// A user's month as the log has it and as it was stored, both at the same position of the log; at least one is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mend {
    /// User of the month.
    pub user: UserId,
    /// The month.
    pub month: Month,
    /// As it should have been.
    pub expected: Option<Sums>,
    /// As it was.
    pub found: Option<Sums>,
}

/// Mends these summaries, each of which is named once, within the caller's transaction, which holds the checkpoint's
/// lock. What was added to them since they were compared stays: what they differed by is added, too. One that was reset
/// since is right by that already.
pub async fn summaries(conn: &mut PgConnection, mends: &[Mend]) -> Result<(), Error> {
    let columns = Columns::of(mends);
    drop_extra(conn, &columns).await?;
    make_missing(conn, &columns).await?;
    add_differences(conn, &columns).await?;
    note_thresholds(conn, &columns).await
}

/// Those that should not be there, and to which nothing was added.
async fn drop_extra(conn: &mut PgConnection, columns: &Columns) -> Result<(), Error> {
    sqlx::query(
        "DELETE FROM monthly_usage_summary s
         USING UNNEST($1::uuid[], $2::text[], $3::bool[], $4::bigint[], $5::bigint[], $6::bigint[], $7::timestamptz[])
               AS m (user_id, month_year, is_expected, analyze_units, auth_units, other_units, was_updated)
         WHERE s.user_id = m.user_id AND s.month_year = m.month_year AND NOT m.is_expected
           AND (s.analyze_calls + m.analyze_units, s.auth_calls + m.auth_units, s.other_calls + m.other_units,
                s.last_updated) = (0, 0, 0, m.was_updated)",
    )
    .bind(&columns.user_id)
    .bind(&columns.month_year)
    .bind(&columns.is_expected)
    .bind(&columns.units[0])
    .bind(&columns.units[1])
    .bind(&columns.units[2])
    .bind(&columns.was_updated)
    .execute(conn)
    .await?;
    Ok(())
}

async fn make_missing(conn: &mut PgConnection, columns: &Columns) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO monthly_usage_summary (user_id, month_year, last_updated)
         SELECT user_id, month_year, updated
         FROM UNNEST($1::uuid[], $2::text[], $3::bool[], $4::bool[], $5::timestamptz[])
              AS m (user_id, month_year, is_expected, is_found, updated)
         WHERE is_expected AND NOT is_found
         ON CONFLICT (user_id, month_year) DO NOTHING",
    )
    .bind(&columns.user_id)
    .bind(&columns.month_year)
    .bind(&columns.is_expected)
    .bind(&columns.is_found)
    .bind(&columns.updated)
    .execute(conn)
    .await?;
    Ok(())
}

async fn add_differences(conn: &mut PgConnection, columns: &Columns) -> Result<(), Error> {
    sqlx::query(
        "UPDATE monthly_usage_summary s
         SET total_calls = s.total_calls + m.analyze_units + m.auth_units + m.other_units,
             analyze_calls = s.analyze_calls + m.analyze_units, auth_calls = s.auth_calls + m.auth_units,
             other_calls = s.other_calls + m.other_units,
             total_response_time_ms = s.total_response_time_ms + m.time_ms, timed_calls = s.timed_calls + m.timed,
             last_updated = CASE WHEN s.last_updated = m.was_updated THEN m.updated
                                 ELSE GREATEST(s.last_updated, m.updated) END,
             reset_seq = m.reset_seq, reset_idx = m.reset_idx,
             monthly_api_limit = p.monthly_api_limit, analyze_limit = p.analyze_limit
         FROM UNNEST($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                     $8::timestamptz[], $9::timestamptz[], $10::bigint[], $11::int[], $12::bigint[], $13::int[])
              AS m (user_id, month_year, analyze_units, auth_units, other_units, time_ms, timed, updated, was_updated,
                    reset_seq, reset_idx, was_reset_seq, was_reset_idx)
         LEFT JOIN LATERAL plan_at(m.user_id, month_end(m.month_year) - interval '1 microsecond') p ON TRUE
         WHERE s.user_id = m.user_id AND s.month_year = m.month_year
           AND (s.reset_seq, s.reset_idx) = (m.was_reset_seq, m.was_reset_idx)",
    )
    .bind(&columns.user_id)
    .bind(&columns.month_year)
    .bind(&columns.units[0])
    .bind(&columns.units[1])
    .bind(&columns.units[2])
    .bind(&columns.time_ms)
    .bind(&columns.timed)
    .bind(&columns.updated)
    .bind(&columns.was_updated)
    .bind(&columns.reset.0)
    .bind(&columns.reset.1)
    .bind(&columns.was_reset.0)
    .bind(&columns.was_reset.1)
    .execute(conn)
    .await?;
    Ok(())
}

/// Another figure may be at a threshold of which no event tells.
async fn note_thresholds(conn: &mut PgConnection, columns: &Columns) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO pending_thresholds AS p (user_id, month_year, log_seq)
         SELECT s.user_id, s.month_year, 0
         FROM UNNEST($1::uuid[], $2::text[]) AS m (user_id, month_year)
         JOIN monthly_usage_summary s ON s.user_id = m.user_id AND s.month_year = m.month_year
         WHERE (100 * s.total_calls::numeric >= 80 * s.monthly_api_limit::numeric
                OR 100 * s.analyze_calls::numeric >= 80 * s.analyze_limit::numeric)
           AND NOT EXISTS (SELECT FROM closed_periods c WHERE c.month_year = s.month_year)
         ON CONFLICT (user_id, month_year) DO UPDATE SET log_seq = p.log_seq + 1",
    )
    .bind(&columns.user_id)
    .bind(&columns.month_year)
    .execute(conn)
    .await?;
    Ok(())
}

#[derive(Default)]
struct Columns {
    user_id: Vec<Uuid>,
    month_year: Vec<String>,
    is_expected: Vec<bool>,
    is_found: Vec<bool>,
    /// By category, what is to be added.
    units: [Vec<i64>; 3],
    time_ms: Vec<i64>,
    timed: Vec<i64>,
    updated: Vec<DateTime<Utc>>,
    was_updated: Vec<DateTime<Utc>>,
    reset: (Vec<i64>, Vec<i32>),
    was_reset: (Vec<i64>, Vec<i32>),
}

impl Columns {
    fn of(mends: &[Mend]) -> Self {
        let mut columns = Self::default();
        for mend in mends {
            columns.user_id.push(mend.user.get());
            columns.month_year.push(mend.month.to_string());
            columns.is_expected.push(mend.expected.is_some());
            columns.is_found.push(mend.found.is_some());
            let (should, was) = (mend.expected.unwrap_or_default(), mend.found.unwrap_or_default());
            for (column, (should, was)) in columns.units.iter_mut().zip(should.units.iter().zip(was.units)) {
                column.push(should - was);
            }
            columns.time_ms.push(should.total_response_time_ms - was.total_response_time_ms);
            columns.timed.push(should.timed_calls - was.timed_calls);
            // Of one that should not be there nothing says when it was updated: what was, stays.
            let updated = mend.expected.or(mend.found).unwrap_or_default().last_updated;
            columns.updated.push(updated);
            columns.was_updated.push(mend.found.map_or(updated, |found| found.last_updated));
            for (column, position) in
                [(&mut columns.reset, should.reset), (&mut columns.was_reset, was.reset)]
            {
                let (seq, idx) = position.columns();
                column.0.push(seq);
                column.1.push(idx);
            }
        }
        columns
    }
}
