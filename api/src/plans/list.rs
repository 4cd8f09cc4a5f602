//! `GET /api/usage/plans`: what is sold. Public.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use store::read::plans::SoldPlan;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::parts::Plans;
use crate::http::extract::Json;
use crate::http::problem::Problem;

/// Time for which the list holds once it is read.
const HOLDS: Duration = Duration::from_secs(1);

/// The list, or why there is none, as it was read last. Anybody may ask for it without a credential, so it is read by
/// one request at a time, for which the others wait, and not again for a second.
#[derive(Default)]
pub(crate) struct LastList(Mutex<Option<(Instant, Result<Arc<PlanList>, Problem>)>>);

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
pub(super) async fn plans(State(plans): State<Plans>) -> Result<Response, Problem> {
    let list = plans.last_list().await?;
    Ok(Json(&*list).into_response())
}

impl Plans {
    async fn last_list(&self) -> Result<Arc<PlanList>, Problem> {
        let mut last = self.0.last_list.0.lock().await;
        if let Some((read, list)) = &*last
            && read.elapsed() < HOLDS
        {
            return list.clone();
        }
        let list = self.read_list().await.map(Arc::new).map_err(Problem::from);
        *last = Some((Instant::now(), list.clone()));
        list
    }

    async fn read_list(&self) -> Result<PlanList, store::Error> {
        let mut conn = self.0.projections.connection().await?;
        let sold = store::read::plans::sold(&mut conn).await?;
        Ok(PlanList { items: sold.into_iter().map(PlanItem::from).collect() })
    }
}

impl From<SoldPlan> for PlanItem {
    fn from(sold: SoldPlan) -> Self {
        Self {
            plan_name: sold.plan.name.to_string(),
            monthly_api_limit: sold.plan.monthly_api_limit,
            analyze_limit: sold.plan.analyze_limit,
            price_monthly: sold.plan.price_monthly.to_string(),
            currency: sold.plan.currency.to_string(),
            features: sold.features,
        }
    }
}
