//! `POST /api/usage/reset`: this month's counters start anew; all rows stay.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use events::{Actor, Body, Event, UsageReset};
use ledger::{Month, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::auth::{Principal, Role, User};
use crate::facts::position::LedgerSeq;
use crate::facts::snapshot::snapshot;
use crate::facts::writer::{PROJECTED_WITHIN, actor, record};
use crate::http::extract::{Json, Text};
use crate::http::idempotency::{Attempt, Keyed};
use crate::http::problem::{Problem, ProblemBody};
use crate::state::AppState;

/// Whose counters, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ResetRequest {
    /// UUID or external id; the caller's own unless given.
    user_id: Option<String>,
    /// Kept with the reset.
    #[schema(value_type = String, max_length = 1024)]
    reason: Text<1024>,
}

/// A reset as recorded.
#[derive(Debug, Serialize, ToSchema)]
struct ResetBody {
    user_id: Uuid,
    /// `YYYY-MM`, in UTC.
    #[schema(value_type = String)]
    month: Month,
    /// When it was asked for. What counts is its position: calls recorded behind it count.
    reset_at: DateTime<Utc>,
}

/// Starts this month's counters anew
///
/// Role admin; with `SELF_RESET` also a user for itself. All calls stay, and `since_reset` tells them apart.
#[utoipa::path(
    post, path = "/api/usage/reset", tag = "usage",
    request_body = ResetRequest,
    responses(
        (status = 200, description = "The counters start anew", body = ResetBody),
        (status = 202, description = "Recorded, not projected yet", body = ResetBody),
        (status = 403, description = "The role may not", body = ProblemBody),
        (status = 409, description = "The month is closed", body = ProblemBody),
    )
)]
async fn reset(
    caller: User,
    State(state): State<AppState>,
    Keyed { body, request }: Keyed<ResetRequest>,
) -> Result<Response, Problem> {
    may_reset(&state, &caller)?;
    let owner = state.users().resolve_living(&caller, body.user_id.as_deref()).await?;
    let (keys, actor) = (state.idempotency().clone(), actor(&caller));
    keys.run(&caller, request, move |attempt| async move {
        reset_month(&state, owner, body.reason.as_str(), actor, attempt).await
    })
    .await
}

fn may_reset(state: &AppState, principal: &Principal) -> Result<(), Problem> {
    match principal.role {
        Role::Admin => Ok(()),
        Role::User if state.config().self_reset => Ok(()),
        Role::User | Role::Service => Err(Problem::forbidden("This needs the role admin.")),
    }
}

async fn reset_month(
    state: &AppState,
    owner: UserId,
    reason: &str,
    actor: Actor<'static>,
    attempt: Attempt,
) -> Result<Response, Problem> {
    // A retry is about the month in which the first try was made.
    let month = Month::of(attempt.at);
    let (mut conn, _) = snapshot(state).await?;
    if store::read::statements::is_closed(&mut conn, month).await? {
        return Err(Problem::conflict(format!(
            "The month {month} is closed: its statement has been issued."
        )));
    }
    drop(conn);
    let body = UsageReset { month, reason: Cow::Borrowed(reason), actor };
    let event = Event::by_api(attempt.event_id, owner, attempt.at, Body::UsageReset(body));
    let seq = record(state, &event).await?;
    let projected = state.watermark().wait_for(seq, PROJECTED_WITHIN).await;
    state.limits().expire(owner);
    let status = if projected { StatusCode::OK } else { StatusCode::ACCEPTED };
    let body = ResetBody { user_id: owner.get(), month, reset_at: attempt.at };
    Ok((status, LedgerSeq::at(state, seq), Json(body)).into_response())
}

/// This file's endpoints.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(reset))
}
