//! `PUT /api/users/{user}/plan`: the host, or what takes its payments, decides on a user's plan.

use axum::extract::State;
use axum::response::Response;
use ledger::PlanName;
use serde::Deserialize;
use utoipa::ToSchema;

use super::change::{PlanChangeBody, PlanRequest, Timing};
use super::parts::Plans;
use crate::auth::{Auth, ServiceOrAdmin, needs};
use crate::http::extract::{Json, Path, Text};
use crate::http::idempotency::Idempotency;
use crate::http::problem::{Problem, ProblemBody};

/// A user's plan.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutPlan {
    /// Name of a plan on sale, or of the current one, which withdraws a change that waits.
    #[schema(value_type = String)]
    plan: PlanName,
    /// From when on; `now` unless given.
    #[serde(default)]
    effective: Effective,
    /// Why, for people.
    #[schema(value_type = Option<String>, max_length = 1024)]
    reason: Option<Text<1024>>,
    /// The id of the event that caused it, such as a payment's: sent again it changes nothing.
    #[schema(value_type = Option<String>, max_length = 255)]
    source_event_id: Option<Text<255>>,
}

/// From when on a plan holds.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Effective {
    /// At once.
    #[default]
    Now,
    /// From the next month on.
    MonthEnd,
}

/// Sets a user's plan
///
/// A limit may fall at once: unlike an upgrade this is the host's decision, not the user's.
#[utoipa::path(
    put, path = "/api/users/{user}/plan", tag = "users",
    params(("user" = String, Path, description = "UUID or external id")),
    request_body = PutPlan,
    responses(
        (status = 200, description = "Decided", body = PlanChangeBody),
        (status = 202, description = "Decided and recorded, not projected yet", body = PlanChangeBody),
        (status = 404, description = "There is no such user", body = ProblemBody),
        (status = 422, description = "There is no such plan", body = ProblemBody),
    )
)]
pub(super) async fn put_plan(
    caller: ServiceOrAdmin<needs::Plans>,
    State(auth): State<Auth>,
    State(plans): State<Plans>,
    State(idempotency): State<Idempotency>,
    Path(named): Path<String>,
    Json(body): Json<PutPlan>,
) -> Result<Response, Problem> {
    let user = auth.resolve_living(&caller, Some(&named)).await?;
    let request = PlanRequest {
        user,
        plan: body.plan,
        timing: match body.effective {
            Effective::Now => Timing::Now,
            Effective::MonthEnd => Timing::MonthEnd,
        },
        reason: body.reason.map(Text::into_string),
        source_event_id: body.source_event_id.map(Text::into_string),
        actor: caller.actor(),
        event_id: plans.0.writer.new_id(),
    };
    idempotency.to_its_end(async move { Ok(plans.change(request).await?.into_response()) }).await
}
