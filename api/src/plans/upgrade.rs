//! `POST /api/usage/upgrade`: a user, or somebody for one, asks for another plan.

use axum::extract::State;
use axum::response::Response;
use ledger::PlanName;
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::change::{PlanChangeBody, PlanRequest, Timing};
use super::parts::Plans;
use crate::auth::{Auth, Principal, Role, User, needs};
use crate::http::extract::Query;
use crate::http::idempotency::{Attempt, Idempotency, KeyHeader, Keyed};
use crate::http::problem::{Problem, ProblemBody};

/// Another plan.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpgradeRequest {
    /// Name of a plan on sale, or of the current one, which withdraws a change that waits.
    #[schema(value_type = String)]
    plan: PlanName,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UpgradeQuery {
    /// Whose plan; role service and admin only.
    user_id: Option<String>,
}

/// Asks for another plan
///
/// When no limit falls it is in force at once; otherwise it waits for the month's end, in place of what waited before.
#[utoipa::path(
    post, path = "/api/usage/upgrade", tag = "usage",
    params(UpgradeQuery, KeyHeader),
    request_body = UpgradeRequest,
    responses(
        (status = 200, description = "Decided", body = PlanChangeBody),
        (status = 202, description = "Decided and recorded, not projected yet", body = PlanChangeBody),
        (status = 403, description = "SELF_UPGRADE is off; `upgrade.url` says where plans are sold", body = ProblemBody),
        (status = 422, description = "There is no such plan", body = ProblemBody),
        (status = 429, description = "More than ten changes of this user's own in a minute", body = ProblemBody),
    )
)]
pub(super) async fn upgrade(
    caller: User<needs::Plans>,
    State(auth): State<Auth>,
    State(plans): State<Plans>,
    State(idempotency): State<Idempotency>,
    Query(query): Query<UpgradeQuery>,
    Keyed { body: UpgradeRequest { plan }, request }: Keyed<UpgradeRequest>,
) -> Result<Response, Problem> {
    may_upgrade(&plans, &caller, &plan)?;
    let user = auth.resolve_living(&caller, query.user_id.as_deref()).await?;
    let actor = caller.actor();
    let work = move |attempt: Attempt| async move {
        let request = PlanRequest {
            user,
            plan,
            timing: Timing::WhenFair,
            reason: None,
            source_event_id: None,
            actor,
            event_id: attempt.event_id,
        };
        Ok(plans.change(request).await?.into_response())
    };
    idempotency.run(caller.key_owner(), request, work).await
}

/// A user's own request needs `SELF_UPGRADE`; without it the answer says where plans are sold.
fn may_upgrade(plans: &Plans, caller: &Principal, plan: &PlanName) -> Result<(), Problem> {
    if caller.role != Role::User {
        return Ok(());
    }
    if plans.0.self_upgrade {
        return plans.0.own_changes.check(caller.user_id);
    }
    let url = plans.0.upgrade_url.as_ref().map(url::Url::as_str);
    Err(Problem::forbidden("Plans are not changed here; see upgrade.url.")
        .with_member("upgrade", json!({"plan": plan, "url": url})))
}
