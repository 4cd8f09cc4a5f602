//! Closed months as they were at their closing.
//!
//! A statement is derived (the view `statements`): the month's summary less the units that came later, which
//! `statement_adjustments` lists.

use chrono::{DateTime, Utc};
use ledger::{Month, UserId};
use sqlx::PgConnection;

use crate::Error;

/// A month as it was when it was closed. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The month.
    pub month_year: String,
    /// The plan that was in force at its end.
    pub plan_name: String,
    /// That plan's limit of all calls; none is unlimited.
    pub monthly_api_limit: Option<u64>,
    /// That plan's limit of analyze calls; none is unlimited.
    pub analyze_limit: Option<u64>,
    /// That plan's price in hundredths of the currency.
    pub price_cents: i64,
    /// ISO 4217.
    pub currency: String,
    /// Units.
    pub units: CategoryUnits,
    /// Time at which the month was closed.
    pub issued_at: DateTime<Utc>,
}

/// Units by category.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CategoryUnits {
    /// Units of category analyze.
    pub analyze: i64,
    /// Units of category auth.
    pub auth: i64,
    /// Units of category other.
    pub other: i64,
}

/// Units that came in, or were taken back, after a month was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjustment {
    /// The statement that lists it.
    pub listed_in: String,
    /// The month that it belongs to.
    pub of_month: String,
    /// The difference.
    pub units: CategoryUnits,
}

/// The statements of `owner` for months before `before`, the newest first, at most `limit`.
pub async fn list(
    conn: &mut PgConnection,
    owner: UserId,
    before: Option<Month>,
    limit: u32,
) -> Result<Vec<Statement>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT month_year AS "month_year!", plan_name AS "plan_name!", monthly_api_limit, analyze_limit,
                  (price_monthly * 100)::bigint AS "price_cents!", currency AS "currency!",
                  analyze_calls AS "analyze_calls!", auth_calls AS "auth_calls!", other_calls AS "other_calls!",
                  issued_at AS "issued_at!"
           FROM statements WHERE user_id = $1 AND ($2::text IS NULL OR month_year < $2)
           ORDER BY month_year DESC LIMIT $3"#,
        owner.get(),
        before.map(|month| month.to_string()),
        i64::from(limit),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Row::into_statement).collect())
}

/// The statement of `owner` for one month, when it has been issued.
pub async fn get(conn: &mut PgConnection, owner: UserId, month: Month) -> Result<Option<Statement>, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT month_year AS "month_year!", plan_name AS "plan_name!", monthly_api_limit, analyze_limit,
                  (price_monthly * 100)::bigint AS "price_cents!", currency AS "currency!",
                  analyze_calls AS "analyze_calls!", auth_calls AS "auth_calls!", other_calls AS "other_calls!",
                  issued_at AS "issued_at!"
           FROM statements WHERE user_id = $1 AND month_year = $2"#,
        owner.get(),
        month.to_string(),
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Row::into_statement))
}

/// The adjustments of `owner` that the statements of `months` list, or that other statements list for them.
pub async fn adjustments(
    conn: &mut PgConnection,
    owner: UserId,
    months: &[String],
) -> Result<Vec<Adjustment>, Error> {
    let rows = sqlx::query!(
        r#"SELECT listed_in AS "listed_in!", of_month AS "of_month!", analyze_units AS "analyze_units!",
                  auth_units AS "auth_units!", other_units AS "other_units!"
           FROM statement_adjustments
           WHERE user_id = $1 AND (listed_in = ANY($2) OR of_month = ANY($2))
           ORDER BY listed_in, of_month"#,
        owner.get(),
        months,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Adjustment {
            listed_in: row.listed_in,
            of_month: row.of_month,
            units: CategoryUnits { analyze: row.analyze_units, auth: row.auth_units, other: row.other_units },
        })
        .collect())
}

/// Whether the month has been closed: its counters are then no longer reset.
pub async fn is_closed(conn: &mut PgConnection, month: Month) -> Result<bool, Error> {
    let closed = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM closed_periods WHERE month_year = $1) AS "closed!""#,
        month.to_string(),
    )
    .fetch_one(conn)
    .await?;
    Ok(closed)
}

struct Row {
    month_year: String,
    plan_name: String,
    monthly_api_limit: Option<i64>,
    analyze_limit: Option<i64>,
    price_cents: i64,
    currency: String,
    analyze_calls: i64,
    auth_calls: i64,
    other_calls: i64,
    issued_at: DateTime<Utc>,
}

impl Row {
    fn into_statement(self) -> Statement {
        Statement {
            month_year: self.month_year,
            plan_name: self.plan_name,
            monthly_api_limit: self.monthly_api_limit.map(i64::unsigned_abs),
            analyze_limit: self.analyze_limit.map(i64::unsigned_abs),
            price_cents: self.price_cents,
            currency: self.currency,
            units: CategoryUnits {
                analyze: self.analyze_calls,
                auth: self.auth_calls,
                other: self.other_calls,
            },
            issued_at: self.issued_at,
        }
    }
}
