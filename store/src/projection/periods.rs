//! Closed months, and what was added to a month after its closing.
//!
//! Nothing here grows with the number of users: a statement is derived (`crate::read::statements`) from the month's
//! summary and the units that came late.

use chrono::{DateTime, Utc};
use ledger::{Month, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

/// Closes the month with one row. Returns `false`, and changes nothing, when it is closed already.
pub async fn close(
    conn: &mut PgConnection,
    month: Month,
    closed_at: DateTime<Utc>,
    position: Position,
) -> Result<bool, Error> {
    let (log_seq, log_idx) = position.columns();
    let inserted = sqlx::query!(
        "INSERT INTO closed_periods (month_year, closed_at, log_seq, log_idx, number)
         SELECT $1, $2, $3, $4, COALESCE(max(number), 0) + 1 FROM closed_periods
         ON CONFLICT (month_year) DO NOTHING",
        month.to_string(),
        closed_at,
        log_seq,
        log_idx,
    )
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// A month's closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// The month.
    pub month: Month,
    /// Position of the closing in the log.
    pub position: Position,
}

/// The closings of those of `months` that are closed.
pub async fn closings(conn: &mut PgConnection, months: &[Month]) -> Result<Vec<Closing>, Error> {
    let months: Vec<String> = months.iter().map(Month::to_string).collect();
    let rows = sqlx::query!(
        "SELECT month_year, log_seq, log_idx FROM closed_periods WHERE month_year = ANY ($1)",
        &months
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let position = Position::from_columns(row.log_seq, row.log_idx);
            Ok(Closing { month: month(row.month_year)?, position })
        })
        .collect()
}

/// Number of the last closing; 0 before the first one.
pub async fn last_number(conn: &mut PgConnection) -> Result<i32, Error> {
    let number = sqlx::query_scalar!(r#"SELECT COALESCE(max(number), 0) AS "number!" FROM closed_periods"#)
        .fetch_one(conn)
        .await?;
    Ok(number)
}

/// Number of the last closing before a position of the log; 0 if there is none.
pub async fn number_before(conn: &mut PgConnection, position: Position) -> Result<i32, Error> {
    let (log_seq, log_idx) = position.columns();
    let number = sqlx::query_scalar!(
        r#"SELECT COALESCE(max(number), 0) AS "number!" FROM closed_periods WHERE (log_seq, log_idx) < ($1, $2)"#,
        log_seq,
        log_idx
    )
    .fetch_one(conn)
    .await?;
    Ok(number)
}

/// Units that were added to the summary of a closed month, or taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateUnits {
    /// User of the month.
    pub user: UserId,
    /// The month that they belong to.
    pub of_month: Month,
    /// Number of the last closing before them.
    pub closings: i32,
    /// Units by category: analyze, auth, other.
    pub units: [i64; 3],
    /// Those among them that are here because a dead letter was applied later than its place in the log.
    pub retried: [i64; 3],
}

/// Adds late units, each to what is there of its key. Keys are unique and sorted.
pub async fn add_late(conn: &mut PgConnection, late: &[LateUnits]) -> Result<(), Error> {
    let users: Vec<Uuid> = late.iter().map(|late| late.user.get()).collect();
    let months: Vec<String> = late.iter().map(|late| late.of_month.to_string()).collect();
    let closings: Vec<i32> = late.iter().map(|late| late.closings).collect();
    let units = |category: usize| late.iter().map(|late| late.units[category]).collect::<Vec<i64>>();
    let retried = |category: usize| late.iter().map(|late| late.retried[category]).collect::<Vec<i64>>();
    sqlx::query!(
        "INSERT INTO late_units AS l (user_id, of_month, closings, analyze_units, auth_units, other_units,
             retried_analyze, retried_auth, retried_other)
         SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[],
                              $7::bigint[], $8::bigint[], $9::bigint[])
         ON CONFLICT (user_id, of_month, closings) DO UPDATE SET
             analyze_units = l.analyze_units + excluded.analyze_units,
             auth_units = l.auth_units + excluded.auth_units,
             other_units = l.other_units + excluded.other_units,
             retried_analyze = l.retried_analyze + excluded.retried_analyze,
             retried_auth = l.retried_auth + excluded.retried_auth,
             retried_other = l.retried_other + excluded.retried_other",
        &users,
        &months,
        &closings,
        &units(0),
        &units(1),
        &units(2),
        &retried(0),
        &retried(1),
        &retried(2),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Months up to and including `last` that have something to list and are not closed, the earliest first: those with
/// calls, and the one after the latest closed month when units came late that no closing lists.
pub async fn unclosed(conn: &mut PgConnection, last: Month) -> Result<Vec<Month>, Error> {
    let candidates: Vec<String> = sqlx::query_scalar(
        r"SELECT m.month_year FROM pg_inherits i
          JOIN pg_class c ON c.oid = i.inhrelid
          CROSS JOIN LATERAL (SELECT replace(right(c.relname, 7), '_', '-') AS month_year) m
          WHERE i.inhparent = 'api_usage'::regclass AND m.month_year <= $1
            AND NOT EXISTS (SELECT FROM closed_periods p WHERE p.month_year = m.month_year)
          ORDER BY m.month_year",
    )
    .bind(last.to_string())
    .fetch_all(&mut *conn)
    .await?;
    let mut months = Vec::new();
    for text in candidates {
        let Ok(month) = text.parse::<Month>() else { continue };
        let used: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM api_usage WHERE created_at >= $1 AND created_at < $2)",
        )
        .bind(month.start())
        .bind(month.end())
        .fetch_one(&mut *conn)
        .await?;
        if used {
            months.push(month);
        }
    }
    if let Some(month) = listing_month(conn).await?
        && month <= last
        && !months.contains(&month)
    {
        months.push(month);
        months.sort_unstable();
    }
    Ok(months)
}

/// The month after the latest closed one, if there are late units that no closing lists yet.
async fn listing_month(conn: &mut PgConnection) -> Result<Option<Month>, Error> {
    // A look into an index for each closing: they are months, and the units are those of users.
    let latest = sqlx::query_scalar!(
        r#"SELECT (SELECT max(month_year) FROM closed_periods) AS "month_year!"
           WHERE EXISTS (
               SELECT FROM closed_periods k
               CROSS JOIN LATERAL (SELECT COALESCE(max(month_year), '') AS month_year FROM closed_periods
                                   WHERE number > k.number) later
               CROSS JOIN LATERAL (SELECT FROM late_units l
                                   WHERE l.closings = k.number AND l.of_month >= later.month_year
                                     AND (l.analyze_units, l.auth_units, l.other_units) <> (0, 0, 0)
                                   LIMIT 1) unlisted)"#
    )
    .fetch_optional(conn)
    .await?;
    latest.map(|text| Ok(month(text)?.next())).transpose()
}

/// Those of the months that are closed.
pub async fn closed(conn: &mut PgConnection, months: &[Month]) -> Result<Vec<Month>, Error> {
    let mut closed: Vec<Month> =
        closings(conn, months).await?.into_iter().map(|closing| closing.month).collect();
    closed.sort_unstable();
    Ok(closed)
}

fn month(text: String) -> Result<Month, Error> {
    text.parse().map_err(|_| Error::Inconsistent {
        table: "closed_periods",
        column: "month_year",
        value: text,
    })
}
