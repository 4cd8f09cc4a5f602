//! Plans as sold, and which one a user is on.

use chrono::{DateTime, Utc};
use ledger::{Money, Plan, PlanName, UserId};
use sqlx::PgConnection;

use crate::Error;

/// A plan as sold today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoldPlan {
    /// Its terms.
    pub plan: Plan,
    /// Its features in words, in the order to show.
    pub features: Vec<String>,
}

/// A plan that a user is on, or will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The terms that it was sold with.
    pub plan: Plan,
    /// Time from which it holds; none for the free plan of a user who never changed.
    pub effective_at: Option<DateTime<Utc>>,
}

/// A user's plan at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanState {
    /// The plan in force: the latest in the log that is effective by then; else the cheapest one sold.
    pub current: Subscription,
    /// The latest change of all, while it lies ahead.
    pub pending: Option<Subscription>,
}

/// The plans as sold, the smallest first.
pub async fn sold(conn: &mut PgConnection) -> Result<Vec<SoldPlan>, Error> {
    let rows = sqlx::query!(
        r#"SELECT plan_name, monthly_api_limit, analyze_limit, (price_monthly * 100)::bigint AS "cents!", currency,
                  features
           FROM subscription_limits ORDER BY rank"#
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let terms = Row {
                plan_name: row.plan_name,
                monthly_api_limit: row.monthly_api_limit,
                analyze_limit: row.analyze_limit,
                cents: row.cents,
                currency: row.currency,
                effective_at: None,
            };
            Ok(SoldPlan {
                plan: terms.into_subscription("subscription_limits")?.plan,
                features: row.features,
            })
        })
        .collect()
}

/// The plan of `owner` at `at`, and the one that waits.
pub async fn state(conn: &mut PgConnection, owner: UserId, at: DateTime<Utc>) -> Result<PlanState, Error> {
    let current = sqlx::query_as!(
        Row,
        r#"SELECT plan_name, monthly_api_limit, analyze_limit, (price_monthly * 100)::bigint AS "cents!", currency,
                  effective_at AS "effective_at?"
           FROM subscriptions WHERE user_id = $1 AND effective_at <= $2
           ORDER BY log_seq DESC, log_idx DESC LIMIT 1"#,
        owner.get(),
        at,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let current = match current {
        Some(row) => row,
        None => free(&mut *conn).await?,
    };
    let pending = latest(conn, owner).await?.filter(|row| row.effective_at > Some(at));
    Ok(PlanState {
        current: current.into_subscription("subscriptions")?,
        pending: pending.map(|row| row.into_subscription("subscriptions")).transpose()?,
    })
}

/// The sequence in the log of the plan change of `owner` that carried `source_event_id`.
pub async fn by_source_event(
    conn: &mut PgConnection,
    owner: UserId,
    source_event_id: &str,
) -> Result<Option<u64>, Error> {
    let seq = sqlx::query_scalar!(
        "SELECT log_seq FROM subscriptions WHERE user_id = $1 AND source_event_id = $2
         ORDER BY log_seq, log_idx LIMIT 1",
        owner.get(),
        source_event_id,
    )
    .fetch_optional(conn)
    .await?;
    Ok(seq.map(i64::unsigned_abs))
}

async fn latest(conn: &mut PgConnection, owner: UserId) -> Result<Option<Row>, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT plan_name, monthly_api_limit, analyze_limit, (price_monthly * 100)::bigint AS "cents!", currency,
                  effective_at AS "effective_at?"
           FROM subscriptions WHERE user_id = $1 ORDER BY log_seq DESC, log_idx DESC LIMIT 1"#,
        owner.get(),
    )
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// The free plan, which a user without a subscription is on.
async fn free(conn: &mut PgConnection) -> Result<Row, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT plan_name, monthly_api_limit, analyze_limit, (price_monthly * 100)::bigint AS "cents!", currency,
                  NULL::timestamptz AS "effective_at?"
           FROM subscription_limits WHERE plan_name = 'free'"#
    )
    .fetch_one(conn)
    .await?;
    Ok(row)
}

/// The columns that `subscriptions` and `subscription_limits` share.
struct Row {
    plan_name: String,
    monthly_api_limit: Option<i64>,
    analyze_limit: Option<i64>,
    cents: i64,
    currency: String,
    effective_at: Option<DateTime<Utc>>,
}

impl Row {
    fn into_subscription(self, table: &'static str) -> Result<Subscription, Error> {
        let inconsistent = |column, value| Error::Inconsistent { table, column, value };
        let plan = Plan {
            name: PlanName::new(&self.plan_name).map_err(|_| inconsistent("plan_name", self.plan_name))?,
            monthly_api_limit: self.monthly_api_limit.map(i64::unsigned_abs),
            analyze_limit: self.analyze_limit.map(i64::unsigned_abs),
            price_monthly: Money::from_cents(self.cents),
            currency: self.currency.parse().map_err(|_| inconsistent("currency", self.currency))?,
        };
        Ok(Subscription { plan, effective_at: self.effective_at })
    }
}
