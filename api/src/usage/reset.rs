//! `POST /api/usage/reset`: this month's counters start anew; all rows stay.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use events::{Body, Event, UsageReset};
use ledger::{Month, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::UsageError;
use super::parts::Usage;
use crate::auth::{Auth, AuthError, Principal, Role, User, needs};
use crate::facts::Written;
use crate::http::extract::{Json, Text};
use crate::http::idempotency::{Attempt, Idempotency, KeyHeader, Keyed};
use crate::http::problem::{Problem, ProblemBody};

/// Whose counters, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResetRequest {
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
    params(KeyHeader),
    request_body = ResetRequest,
    responses(
        (status = 200, description = "The counters start anew", body = ResetBody),
        (status = 202, description = "Recorded, not projected yet", body = ResetBody),
        (status = 403, description = "The role may not", body = ProblemBody),
        (status = 409, description = "The month is closed", body = ProblemBody),
        (status = 429, description = "More than ten changes of this user's own in a minute", body = ProblemBody),
    )
)]
pub(super) async fn reset(
    caller: User<needs::NoKey>,
    State(auth): State<Auth>,
    State(usage): State<Usage>,
    State(idempotency): State<Idempotency>,
    Keyed { body, request }: Keyed<ResetRequest>,
) -> Result<Response, Problem> {
    usage.may_reset(&caller)?;
    let user = auth.resolve_living(&caller, body.user_id.as_deref()).await?;
    let actor = caller.actor();
    let work = move |attempt: Attempt| async move {
        // A retry is about the month in which the first try was made.
        let month = Month::of(attempt.at);
        let reset = UsageReset { month, reason: Cow::Borrowed(body.reason.as_str()), actor };
        let written = usage.reset(user, reset, attempt).await?;
        let body = ResetBody { user_id: user.get(), month, reset_at: attempt.at };
        Ok(written.answer(StatusCode::OK, Json(body)))
    };
    idempotency.run(caller.key_owner(), request, work).await
}

impl Usage {
    fn may_reset(&self, caller: &Principal) -> Result<(), Problem> {
        match caller.role {
            Role::Admin => Ok(()),
            Role::User if self.0.self_reset => self.0.own_changes.check(caller.user_id),
            Role::User | Role::Service => Err(AuthError::Role("admin").into()),
        }
    }

    async fn reset(
        &self,
        user: UserId,
        reset: UsageReset<'_>,
        attempt: Attempt,
    ) -> Result<Written, UsageError> {
        let (mut conn, _) = self.0.projections.snapshot().await?;
        if store::read::statements::is_closed(&mut conn, reset.month).await? {
            return Err(UsageError::Closed(reset.month));
        }
        drop(conn);
        let event = Event::by_api(attempt.event_id, user, attempt.at, Body::UsageReset(reset));
        let written = self.0.writer.write(&event).await?;
        self.0.limits.read_at(user, written.seq);
        Ok(written)
    }
}
