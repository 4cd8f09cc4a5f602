//! `POST /api/usage/upgrade`: a user, or somebody for one, asks for another plan.

use axum::extract::State;
use axum::response::Response;
use ledger::PlanName;
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Principal, Role, User};
use crate::facts::writer::actor;
use crate::http::extract::Query;
use crate::http::idempotency::Keyed;
use crate::http::problem::{Problem, ProblemBody};
use crate::plans::change::{PlanChangeBody, PlanRequest, Timing, change_plan};
use crate::state::AppState;

/// Another plan.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpgradeRequest {
    /// Name of a plan on sale, or of the current one, which withdraws a change that waits.
    #[schema(value_type = String)]
    plan: PlanName,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UpgradeQuery {
    /// Whose plan; role service and admin only.
    user_id: Option<String>,
}

/// Asks for another plan
///
/// When no limit falls it is in force at once; otherwise it waits for the month's end, in place of what waited before.
#[utoipa::path(
    post, path = "/api/usage/upgrade", tag = "usage",
    params(UpgradeQuery),
    request_body = UpgradeRequest,
    responses(
        (status = 200, description = "Decided", body = PlanChangeBody),
        (status = 202, description = "Decided and recorded, not projected yet", body = PlanChangeBody),
        (status = 403, description = "SELF_UPGRADE is off; `upgrade.url` says where plans are sold", body = ProblemBody),
        (status = 422, description = "There is no such plan", body = ProblemBody),
    )
)]
async fn upgrade(
    caller: User,
    State(state): State<AppState>,
    Query(query): Query<UpgradeQuery>,
    Keyed { body: UpgradeRequest { plan }, request }: Keyed<UpgradeRequest>,
) -> Result<Response, Problem> {
    may_upgrade(&state, &caller, &plan)?;
    let owner = state.users().resolve_living(&caller, query.user_id.as_deref()).await?;
    let (keys, actor) = (state.idempotency().clone(), actor(&caller));
    keys.run(&caller, request, move |attempt| async move {
        let request = PlanRequest {
            user: owner,
            plan,
            timing: Timing::WhenFair,
            reason: None,
            source_event_id: None,
            actor,
            event_id: attempt.event_id,
        };
        Ok(change_plan(&state, request).await?.into_response(&state))
    })
    .await
}

/// A user's own request needs `SELF_UPGRADE`; without it the answer says where plans are sold.
fn may_upgrade(state: &AppState, principal: &Principal, plan: &PlanName) -> Result<(), Problem> {
    if principal.role != Role::User || state.config().self_upgrade {
        return Ok(());
    }
    let url = state.config().upgrade_url.as_ref().map(url::Url::as_str);
    Err(Problem::forbidden("Plans are not changed here; see upgrade.url.")
        .with_member("upgrade", json!({"plan": plan, "url": url})))
}

/// This file's endpoints.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(upgrade))
}
