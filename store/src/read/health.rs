//! Figures of the service's health, for operators.

use sqlx::PgConnection;

use crate::Error;

/// Counting stops there: what matters is that there are some, and the count is asked for every second.
const COUNTED_DEAD_LETTERS: i64 = 10_000;

/// Events that were set aside, at most 10,000.
pub async fn dead_letters(conn: &mut PgConnection) -> Result<i64, Error> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM (SELECT 1 AS one FROM dead_letters LIMIT $1) AS counted"#,
        COUNTED_DEAD_LETTERS
    )
    .fetch_one(conn)
    .await?;
    Ok(count)
}
