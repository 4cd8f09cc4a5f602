//! `GET /api/usage/stats`: what a user has used of a month, and of its plan.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use ledger::limit::{BLOCKED_PERCENT, WARNING_PERCENT, percentage, remaining, status, worst_status};
use ledger::{Forecast, Meter, Month, Percentage, Plan, Status, Used, forecast};
use serde::{Deserialize, Serialize};
use store::read::plans::PlanState;
use store::read::stats::{Crossing, MonthUsage};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::parts::Usage;
use crate::auth::{Auth, User, needs};
use crate::facts::{AsOf, MinSeq, MinSeqHeader};
use crate::http::extract::{Json, Query};
use crate::http::problem::Problem;
use crate::plans::PendingPlan;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StatsQuery {
    /// Whose usage; role service and admin only.
    user_id: Option<String>,
    /// `YYYY-MM`; this month unless given.
    #[param(value_type = Option<String>)]
    month: Option<Month>,
}

/// What a user has used of a month.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stats {
    user_id: Uuid,
    plan: StatsPlan,
    /// `YYYY-MM`, in UTC.
    #[schema(value_type = String)]
    month: Month,
    /// That of the meter that stands worst.
    #[schema(value_type = String)]
    status: Status,
    /// The meters at their limit.
    #[schema(value_type = Vec<String>)]
    blocked_meters: Vec<Meter>,
    total: MeterStats,
    analyze: MeterStats,
    by_category: UnitsByCategory,
    /// Over the calls that were timed; null when none was.
    avg_response_time_ms: Option<u64>,
    /// When the counters start anew.
    resets_at: DateTime<Utc>,
    as_of: AsOf,
}

/// The plan in force in the month.
#[derive(Debug, Serialize, ToSchema)]
struct StatsPlan {
    plan_name: String,
    /// A decimal string.
    price_monthly: String,
    /// ISO 4217.
    currency: String,
    /// The plan that waits for the month's end.
    pending: Option<PendingPlan>,
}

/// One meter.
#[derive(Debug, Serialize, ToSchema)]
struct MeterStats {
    /// Units since the month's last reset.
    used: u64,
    /// Units a month; null is unlimited.
    limit: Option<u64>,
    /// Units left; null is unlimited.
    remaining: Option<u64>,
    /// Of the limit, rounded down to 0.1, not capped; null without a limit or with one of 0.
    #[schema(value_type = Option<f64>)]
    percentage: Option<Percentage>,
    #[schema(value_type = String)]
    status: Status,
    /// When 80 % of the limit were reached; null below that.
    warning_since: Option<DateTime<Utc>>,
    /// When the limit was reached; null below that.
    blocked_since: Option<DateTime<Utc>>,
    /// Null before a day of data.
    forecast: Option<MeterForecast>,
}

/// Where a meter will stand if it goes on like this.
#[derive(Debug, Serialize, ToSchema)]
struct MeterForecast {
    /// Units at the month's end.
    at_month_end: u64,
    /// Null when not within the month, or already.
    limit_reached_at: Option<DateTime<Utc>>,
}

/// Units by category; their sum is the meter `total`.
#[derive(Debug, Serialize, ToSchema)]
struct UnitsByCategory {
    analyze: u64,
    auth: u64,
    other: u64,
}

/// Usage of a month, against the plan's limits.
#[utoipa::path(
    get,
    path = "/api/usage/stats",
    tag = "usage",
    params(StatsQuery, MinSeqHeader),
    responses(
        (status = 200, body = Stats),
    )
)]
pub(super) async fn stats(
    caller: User<needs::Read>,
    _seen: MinSeq,
    State(auth): State<Auth>,
    State(usage): State<Usage>,
    Query(query): Query<StatsQuery>,
) -> Result<Json<Stats>, Problem> {
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let now = usage.0.writer.now();
    let this_month = Month::of(now);
    let month = query.month.unwrap_or(this_month);
    // A month that is over had the plan of its last instant; one that is to come will have it.
    let plan_at = if month == this_month { now } else { month.end() - TimeDelta::microseconds(1) };

    let (mut conn, as_of) = usage.0.projections.snapshot().await?;
    let month_usage = store::read::stats::month_usage(&mut conn, owner, month).await?;
    let crossings = store::read::stats::crossings(&mut conn, owner, month).await?;
    let first_call_at = store::read::stats::first_call_at(&mut conn, owner, month).await?;
    let plans = store::read::plans::state(&mut conn, owner, plan_at).await?;

    let view =
        MonthView { month, now, usage: month_usage, plan: &plans.current.plan, crossings, first_call_at };
    let used = view.used();
    let limits = plans.current.plan.limits();
    Ok(Json(Stats {
        user_id: owner.get(),
        month,
        status: worst_status(limits, used),
        blocked_meters: Meter::ALL
            .into_iter()
            .filter(|&meter| view.status(meter) == Status::Blocked)
            .collect(),
        total: view.meter(Meter::Total),
        analyze: view.meter(Meter::Analyze),
        by_category: UnitsByCategory {
            analyze: month_usage.analyze,
            auth: month_usage.auth,
            other: month_usage.other,
        },
        avg_response_time_ms: month_usage.avg_response_time_ms,
        resets_at: month.end(),
        plan: StatsPlan::new(&plans, month == this_month),
        as_of,
    }))
}

impl StatsPlan {
    /// A plan that waits is a matter of the present: another month does not show it.
    fn new(plans: &PlanState, present: bool) -> Self {
        Self {
            plan_name: plans.current.plan.name.to_string(),
            price_monthly: plans.current.plan.price_monthly.to_string(),
            currency: plans.current.plan.currency.to_string(),
            pending: plans.pending.as_ref().filter(|_| present).and_then(PendingPlan::of),
        }
    }
}

/// All that a meter's figures are made of.
struct MonthView<'a> {
    month: Month,
    now: DateTime<Utc>,
    usage: MonthUsage,
    plan: &'a Plan,
    crossings: Vec<Crossing>,
    first_call_at: Option<DateTime<Utc>>,
}

impl MonthView<'_> {
    fn used(&self) -> Used {
        Used { total: self.usage.total, analyze: self.usage.analyze }
    }

    fn status(&self, meter: Meter) -> Status {
        status(self.used().of(meter), self.plan.limit(meter))
    }

    fn meter(&self, meter: Meter) -> MeterStats {
        let (used, limit) = (self.used().of(meter), self.plan.limit(meter));
        MeterStats {
            used,
            limit,
            remaining: remaining(used, limit),
            percentage: percentage(used, limit),
            status: self.status(meter),
            warning_since: self.since(meter, Status::Warning, WARNING_PERCENT),
            blocked_since: self.since(meter, Status::Blocked, BLOCKED_PERCENT),
            forecast: self
                .first_call_at
                .and_then(|first| forecast(self.month, first, self.now, used, limit))
                .map(MeterForecast::from),
        }
    }

    /// A threshold that was crossed on a smaller plan says nothing about a meter that stands below it now.
    fn since(&self, meter: Meter, at_least: Status, threshold_percent: u8) -> Option<DateTime<Utc>> {
        let crossing = |c: &&Crossing| c.meter == meter && c.threshold_percent == threshold_percent;
        (self.status(meter) >= at_least)
            .then(|| self.crossings.iter().find(crossing).map(|crossing| crossing.crossed_at))
            .flatten()
    }
}

impl From<Forecast> for MeterForecast {
    fn from(forecast: Forecast) -> Self {
        Self { at_month_end: forecast.at_month_end, limit_reached_at: forecast.limit_reached_at }
    }
}
