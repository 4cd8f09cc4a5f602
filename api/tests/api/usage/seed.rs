//! Projections as the projector would have left them, made from a list of calls.

use chrono::{DateTime, Utc};
use ledger::{Category, Month, UserId};
use sqlx::PgPool;
use uuid::Uuid;

/// A call to be found in the projections.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) seq: u64,
    pub(crate) units: u32,
    pub(crate) category: Category,
    pub(crate) counted: bool,
    pub(crate) endpoint: String,
    pub(crate) method: Option<String>,
    pub(crate) status_code: Option<u16>,
    pub(crate) response_time_ms: Option<u32>,
}

impl Call {
    /// A counted, untimed call of one unit.
    pub(crate) fn at(created_at: DateTime<Utc>, seq: u64, category: Category, endpoint: &str) -> Self {
        Self {
            created_at,
            seq,
            units: 1,
            category,
            counted: true,
            endpoint: endpoint.to_owned(),
            method: Some("GET".to_owned()),
            status_code: Some(200),
            response_time_ms: None,
        }
    }
}

/// Stores the calls of one user with their summaries and roll-ups; the counters of a month start after `reset_seq`.
pub(crate) async fn project(pool: &PgPool, user: UserId, calls: &[Call], reset_seq: u64) {
    let mut conn = pool.acquire().await.unwrap();
    for call in calls {
        let month = Month::of(call.created_at);
        store::projection::partitions::ensure(&mut conn, month).await.unwrap();
        sqlx::query(
            "INSERT INTO api_usage (id, user_id, created_at, log_seq, log_idx, units, response_time_ms, status_code,
                 counted, category, month_year, method, endpoint)
             VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(Uuid::from_u128(u128::from(call.seq)))
        .bind(user.get())
        .bind(call.created_at)
        .bind(i64::try_from(call.seq).unwrap())
        .bind(i32::try_from(call.units).unwrap())
        .bind(call.response_time_ms.map(|ms| i32::try_from(ms).unwrap()))
        .bind(call.status_code.map(|status| i16::try_from(status).unwrap()))
        .bind(call.counted)
        .bind(call.category.as_str())
        .bind(month.to_string())
        .bind(call.method.as_deref())
        .bind(&call.endpoint)
        .execute(&mut *conn)
        .await
        .unwrap();
    }
    summarise(&mut conn, user, reset_seq).await;
    for (table, unit) in [("usage_hourly", "hour"), ("usage_daily", "day")] {
        roll_up(&mut conn, user, table, unit).await;
    }
    let last = calls.iter().map(|call| call.seq).max().unwrap_or_default().max(reset_seq);
    sqlx::query("UPDATE projection_checkpoint SET seq = $1, frame_time = '2026-11-24T03:00:00Z'")
        .bind(i64::try_from(last).unwrap())
        .execute(&mut *conn)
        .await
        .unwrap();
}

async fn summarise(conn: &mut sqlx::PgConnection, user: UserId, reset_seq: u64) {
    sqlx::query(
        "INSERT INTO monthly_usage_summary (user_id, month_year, total_calls, analyze_calls, auth_calls, other_calls,
             total_response_time_ms, timed_calls, last_updated, reset_seq)
         SELECT user_id, month_year,
                COALESCE(SUM(units) FILTER (WHERE fresh), 0),
                COALESCE(SUM(units) FILTER (WHERE fresh AND category = 'analyze'), 0),
                COALESCE(SUM(units) FILTER (WHERE fresh AND category = 'auth'), 0),
                COALESCE(SUM(units) FILTER (WHERE fresh AND category = 'other'), 0),
                COALESCE(SUM(response_time_ms) FILTER (WHERE fresh), 0),
                COUNT(response_time_ms) FILTER (WHERE fresh), MAX(created_at), $2
         FROM (SELECT *, counted AND log_seq > $2 AS fresh FROM api_usage WHERE user_id = $1) calls
         GROUP BY user_id, month_year",
    )
    .bind(user.get())
    .bind(i64::try_from(reset_seq).unwrap())
    .execute(conn)
    .await
    .unwrap();
}

async fn roll_up(conn: &mut sqlx::PgConnection, user: UserId, table: &str, unit: &str) {
    let statement = format!(
        "INSERT INTO {table}
         SELECT user_id, date_trunc('{unit}', created_at, 'UTC'), category, counted, SUM(units), COUNT(*),
                COALESCE(SUM(response_time_ms), 0), COUNT(response_time_ms)
         FROM api_usage WHERE user_id = $1 GROUP BY 1, 2, 3, 4"
    );
    sqlx::query(&statement).bind(user.get()).execute(conn).await.unwrap();
}
