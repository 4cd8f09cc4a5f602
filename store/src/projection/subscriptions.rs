//! Plan changes as decided.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;

use crate::{Error, Position};

/// A decided change of a user's plan, with the terms that it was sold with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanChange {
    /// User of the plan.
    pub user: UserId,
    /// Position of the change in the log.
    pub position: Position,
    /// The plan's name.
    pub plan_name: String,
    /// Units a month; `None` is unlimited.
    pub monthly_api_limit: Option<u64>,
    /// Analyze units a month; `None` is unlimited.
    pub analyze_limit: Option<u64>,
    /// Price of a month, as a decimal.
    pub price_monthly: String,
    /// Currency of the price (ISO 4217).
    pub currency: String,
    /// Time from which it holds.
    pub effective_at: DateTime<Utc>,
    /// Time of the decision.
    pub changed_at: DateTime<Utc>,
    /// The reason, if someone gave one.
    pub reason: Option<String>,
    /// The id of the event elsewhere that caused it.
    pub source_event_id: Option<String>,
}

/// Stores the change; one that is there already stays as it is. `retried_closings` is for one that is applied later
/// than its place in the log: the number of the last closing before that. The months that were closed by then stay as
/// they were.
pub async fn insert(
    conn: &mut PgConnection,
    change: &PlanChange,
    retried_closings: Option<i32>,
) -> Result<(), Error> {
    let (log_seq, log_idx) = change.position.columns();
    sqlx::query!(
        "INSERT INTO subscriptions (user_id, log_seq, log_idx, plan_name, monthly_api_limit, analyze_limit,
             price_monthly, currency, effective_at, changed_at, reason, source_event_id, retried_closings)
         VALUES ($1, $2, $3, $4, $5, $6, $7::text::numeric, $8, $9, $10, $11, $12, $13)
         ON CONFLICT (user_id, log_seq, log_idx) DO NOTHING",
        change.user.get(),
        log_seq,
        log_idx,
        change.plan_name,
        change.monthly_api_limit.map(limit_to_column),
        change.analyze_limit.map(limit_to_column),
        change.price_monthly,
        change.currency,
        change.effective_at,
        change.changed_at,
        change.reason,
        change.source_event_id,
        retried_closings,
    )
    .execute(conn)
    .await?;
    Ok(())
}

fn limit_to_column(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
