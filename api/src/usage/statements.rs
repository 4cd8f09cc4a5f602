//! `GET /api/usage/statements[/{month}]`: closed months as issued.

use axum::extract::State;
use chrono::{DateTime, Utc};
use ledger::{Money, Month, UserId};
use serde::{Deserialize, Serialize};
use store::read::statements::{Adjustment, CategoryUnits, Statement};
use utoipa::{IntoParams, ToSchema};

use super::parts::Usage;
use crate::auth::{Auth, User, needs};
use crate::facts::{AsOf, MinSeq, MinSeqHeader};
use crate::http::extract::{Json, Path, Query};
use crate::http::paging::{CursorScope, PageLimit};
use crate::http::problem::{FieldError, Problem, ProblemBody};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StatementsQuery {
    /// Whose statements; role service and admin only.
    user_id: Option<String>,
    /// Statements a page, 1 to 500; 50 unless given.
    #[serde(default)]
    #[param(value_type = Option<u32>)]
    limit: PageLimit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StatementQuery {
    /// Whose statement; role service and admin only.
    user_id: Option<String>,
}

/// A page of statements.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Statements {
    items: Vec<StatementBody>,
    /// Leads to the next page; null on the last.
    next_cursor: Option<String>,
    as_of: AsOf,
}

/// One statement, and the position that it was read at.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatementAnswer {
    #[serde(flatten)]
    statement: StatementBody,
    as_of: AsOf,
}

/// A closed month. The figures are those of the day of issue and never change; what came in later is listed by a later
/// statement.
#[derive(Debug, Serialize, ToSchema)]
struct StatementBody {
    /// `YYYY-MM`, in UTC.
    month: String,
    /// The plan in force at the month's end, with the terms that it was sold with.
    plan_name: String,
    /// Units; null is unlimited.
    monthly_api_limit: Option<u64>,
    /// Units; null is unlimited.
    analyze_limit: Option<u64>,
    /// A decimal string.
    price_monthly: String,
    /// ISO 4217.
    currency: String,
    #[serde(flatten)]
    units: UnitsBody,
    /// When the month was closed.
    issued_at: DateTime<Utc>,
    /// Units of earlier months that came in after their statements; `month` is the month that they belong to.
    adjustments: Vec<AdjustmentBody>,
    /// Units of this month that later statements list; `month` is that statement's.
    adjusted_in: Vec<AdjustmentBody>,
}

/// Units of an adjustment; negative when a call was taken back.
#[derive(Debug, Serialize, ToSchema)]
struct AdjustmentBody {
    month: String,
    #[serde(flatten)]
    units: UnitsBody,
}

/// Units by category and their sum.
#[derive(Debug, Serialize, ToSchema)]
struct UnitsBody {
    #[serde(rename = "total_calls")]
    total: i64,
    #[serde(rename = "analyze_calls")]
    analyze: i64,
    #[serde(rename = "auth_calls")]
    auth: i64,
    #[serde(rename = "other_calls")]
    other: i64,
}

/// Closed months, the newest first.
#[utoipa::path(
    get,
    path = "/api/usage/statements",
    tag = "usage",
    params(StatementsQuery, MinSeqHeader),
    responses(
        (status = 200, body = Statements),
    )
)]
pub(super) async fn statements(
    caller: User<needs::Read>,
    _seen: MinSeq,
    State(auth): State<Auth>,
    State(usage): State<Usage>,
    Query(query): Query<StatementsQuery>,
) -> Result<Json<Statements>, Problem> {
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let scope = CursorScope::new(&[b"statements", owner.get().as_bytes()]);
    let before = query.cursor.as_deref().map(|cursor| open(&scope, cursor)).transpose()?;
    let (mut conn, as_of) = usage.0.projections.snapshot().await?;
    let mut found = store::read::statements::list(&mut conn, owner, before, query.limit.to_read()).await?;
    let next_cursor = query.limit.cut(&mut found).map(|last| scope.seal(last.month_year.as_bytes()));
    let items = with_adjustments(&mut conn, owner, found).await?;
    Ok(Json(Statements { items, next_cursor, as_of }))
}

/// One closed month.
#[utoipa::path(
    get,
    path = "/api/usage/statements/{month}",
    tag = "usage",
    params(("month" = String, Path, description = "`YYYY-MM`"), StatementQuery, MinSeqHeader),
    responses(
        (status = 200, body = StatementAnswer),
        (status = 404, description = "Not closed yet, or nothing was used", body = ProblemBody),
    )
)]
pub(super) async fn statement(
    caller: User<needs::Read>,
    _seen: MinSeq,
    State(auth): State<Auth>,
    State(usage): State<Usage>,
    Path(month): Path<String>,
    Query(query): Query<StatementQuery>,
) -> Result<Json<StatementAnswer>, Problem> {
    let month: Month = month.parse().map_err(|error| FieldError::invalid_parameter("month", &error))?;
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let (mut conn, as_of) = usage.0.projections.snapshot().await?;
    let found = store::read::statements::get(&mut conn, owner, month).await?;
    let found = found.ok_or_else(Problem::not_found)?;
    let mut items = with_adjustments(&mut conn, owner, vec![found]).await?;
    let statement = items.pop().ok_or_else(Problem::not_found)?;
    Ok(Json(StatementAnswer { statement, as_of }))
}

fn open(scope: &CursorScope, cursor: &str) -> Result<Month, Problem> {
    let payload = scope.open(cursor)?;
    std::str::from_utf8(&payload).ok().and_then(|month| month.parse().ok()).ok_or_else(CursorScope::refused)
}

async fn with_adjustments(
    conn: &mut sqlx::PgConnection,
    owner: UserId,
    statements: Vec<Statement>,
) -> Result<Vec<StatementBody>, store::Error> {
    let months: Vec<String> = statements.iter().map(|statement| statement.month_year.clone()).collect();
    let adjustments = store::read::statements::adjustments(conn, owner, &months).await?;
    Ok(statements.into_iter().map(|statement| StatementBody::new(statement, &adjustments)).collect())
}

impl StatementBody {
    fn new(statement: Statement, adjustments: &[Adjustment]) -> Self {
        let month = &statement.month_year;
        let listed = adjustments.iter().filter(|adjustment| adjustment.listed_in == *month);
        let later = adjustments.iter().filter(|adjustment| adjustment.of_month == *month);
        Self {
            adjustments: listed.map(|a| AdjustmentBody::new(&a.of_month, a.units)).collect(),
            adjusted_in: later.map(|a| AdjustmentBody::new(&a.listed_in, a.units)).collect(),
            month: statement.month_year,
            plan_name: statement.plan_name,
            monthly_api_limit: statement.monthly_api_limit,
            analyze_limit: statement.analyze_limit,
            price_monthly: Money::from_cents(statement.price_cents).to_string(),
            currency: statement.currency,
            units: statement.units.into(),
            issued_at: statement.issued_at,
        }
    }
}

impl AdjustmentBody {
    fn new(month: &str, units: CategoryUnits) -> Self {
        Self { month: month.to_owned(), units: units.into() }
    }
}

impl From<CategoryUnits> for UnitsBody {
    fn from(units: CategoryUnits) -> Self {
        Self {
            total: units.analyze + units.auth + units.other,
            analyze: units.analyze,
            auth: units.auth,
            other: units.other,
        }
    }
}
