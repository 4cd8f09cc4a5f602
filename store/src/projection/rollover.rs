//! Which months are to be closed.

use ledger::Month;
use sqlx::PgConnection;

use crate::Error;

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
