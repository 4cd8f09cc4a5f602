//! `GET /api/usage/plans`: what is sold. Public.

use axum::extract::State;
use serde::Serialize;
use store::read::plans::SoldPlan;
use utoipa::ToSchema;

use super::parts::Plans;
use crate::http::extract::Json;
use crate::http::problem::Problem;

/// The plans on sale, the smallest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plans)]
pub(super) struct PlanList {
    items: Vec<PlanItem>,
}

/// A plan on sale.
#[derive(Debug, Serialize, ToSchema)]
struct PlanItem {
    plan_name: String,
    /// Units a month of all calls; null is unlimited.
    monthly_api_limit: Option<u64>,
    /// Units a month of analyze calls; null is unlimited.
    analyze_limit: Option<u64>,
    /// A decimal string.
    price_monthly: String,
    /// ISO 4217.
    currency: String,
    features: Vec<String>,
}

/// The plans on sale.
#[utoipa::path(
    get,
    path = "/api/usage/plans",
    tag = "usage",
    security(()),
    responses((status = 200, body = PlanList))
)]
pub(super) async fn plans(State(plans): State<Plans>) -> Result<Json<PlanList>, Problem> {
    let sold = plans.0.on_sale.get(&plans.0.projections).await?;
    Ok(Json(PlanList { items: sold.iter().map(PlanItem::from).collect() }))
}

impl From<&SoldPlan> for PlanItem {
    fn from(sold: &SoldPlan) -> Self {
        Self {
            plan_name: sold.plan.name.to_string(),
            monthly_api_limit: sold.plan.monthly_api_limit,
            analyze_limit: sold.plan.analyze_limit,
            price_monthly: sold.plan.price_monthly.to_string(),
            currency: sold.plan.currency.to_string(),
            features: sold.features.clone(),
        }
    }
}
