//! Closed months and their statements.

use chrono::{DateTime, Utc};
use ledger::Month;
use sqlx::PgConnection;

use crate::projection::summaries;
use crate::{Error, Position};

/// Closes the month and issues its statements, with what was counted in earlier closed months since they were last
/// listed as adjustments. Returns `false`, and changes nothing, when the month is closed already.
pub async fn close(
    conn: &mut PgConnection,
    month: Month,
    closed_at: DateTime<Utc>,
    position: Position,
) -> Result<bool, Error> {
    let (log_seq, log_idx) = position.columns();
    let month_year = month.to_string();
    let inserted = sqlx::query!(
        "INSERT INTO closed_periods (month_year, closed_at, log_seq, log_idx) VALUES ($1, $2, $3, $4)
         ON CONFLICT (month_year) DO NOTHING",
        month_year,
        closed_at,
        log_seq,
        log_idx,
    )
    .execute(&mut *conn)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(false);
    }
    list_adjustments(conn, &month_year).await?;
    issue_statements(conn, &month_year, closed_at, position).await?;
    summaries::mark_billed(conn, month).await?;
    Ok(true)
}

/// Those of `months` that the log closed before `position`.
pub async fn closed_before(
    conn: &mut PgConnection,
    months: &[Month],
    position: Position,
) -> Result<Vec<Month>, Error> {
    let (log_seq, log_idx) = position.columns();
    let months: Vec<String> = months.iter().map(Month::to_string).collect();
    let closed = sqlx::query_scalar!(
        "SELECT month_year FROM closed_periods WHERE month_year = ANY ($1) AND (log_seq, log_idx) < ($2, $3)",
        &months,
        log_seq,
        log_idx,
    )
    .fetch_all(conn)
    .await?;
    closed
        .into_iter()
        .map(|text| {
            text.parse().map_err(|_| Error::Inconsistent {
                table: "closed_periods",
                column: "month_year",
                value: text,
            })
        })
        .collect()
}

/// Months up to and including `last` that have calls and are not closed, the earliest first.
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
    Ok(months)
}

/// Those of the months that are closed.
pub async fn closed(conn: &mut PgConnection, months: &[Month]) -> Result<Vec<Month>, Error> {
    let texts: Vec<String> = months.iter().map(Month::to_string).collect();
    let closed: Vec<String> =
        sqlx::query_scalar("SELECT month_year FROM closed_periods WHERE month_year = ANY ($1) ORDER BY 1")
            .bind(texts)
            .fetch_all(conn)
            .await?;
    Ok(closed.iter().filter_map(|text| text.parse().ok()).collect())
}

async fn list_adjustments(conn: &mut PgConnection, month_year: &str) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO statement_adjustments (user_id, listed_in, of_month, analyze_units, auth_units, other_units)
         SELECT s.user_id, $1, s.month_year, s.analyze_calls - s.billed_analyze, s.auth_calls - s.billed_auth,
                s.other_calls - s.billed_other
         FROM monthly_usage_summary s
         JOIN closed_periods c ON c.month_year = s.month_year
         WHERE s.month_year < $1
           AND (s.analyze_calls, s.auth_calls, s.other_calls) <> (s.billed_analyze, s.billed_auth, s.billed_other)",
        month_year
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn issue_statements(
    conn: &mut PgConnection,
    month_year: &str,
    issued_at: DateTime<Utc>,
    position: Position,
) -> Result<(), Error> {
    let (log_seq, log_idx) = position.columns();
    sqlx::query!(
        "INSERT INTO statements (user_id, month_year, plan_name, monthly_api_limit, analyze_limit, price_monthly,
             currency, total_calls, analyze_calls, auth_calls, other_calls, issued_at, log_seq, log_idx)
         SELECT u.user_id, $1, p.plan_name, p.monthly_api_limit, p.analyze_limit, p.price_monthly, p.currency,
                COALESCE(s.total_calls, 0), COALESCE(s.analyze_calls, 0), COALESCE(s.auth_calls, 0),
                COALESCE(s.other_calls, 0), $2, $3, $4
         FROM (SELECT user_id FROM monthly_usage_summary WHERE month_year = $1
               UNION SELECT user_id FROM statement_adjustments WHERE listed_in = $1) u
         LEFT JOIN monthly_usage_summary s ON s.user_id = u.user_id AND s.month_year = $1
         CROSS JOIN LATERAL plan_at(u.user_id, month_end($1) - interval '1 microsecond') p",
        month_year,
        issued_at,
        log_seq,
        log_idx,
    )
    .execute(conn)
    .await?;
    Ok(())
}
