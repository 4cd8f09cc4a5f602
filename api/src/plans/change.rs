//! Changing a user's plan: when it takes effect, what it replaces, and that a repeated request changes nothing.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use events::{Actor, Body, Event, PlanChanged};
use ledger::{Meter, Month, Plan, PlanName, UserId, derived_id};
use nats::PublishError;
use serde::Serialize;
use store::read::limit_inputs::Terms;
use store::read::plans::{PlanState, SoldPlan, Subscription};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::PlansError;
use super::parts::{LastChange, Parts, Plans};
use crate::facts::{PROJECTED_WITHIN, Written};
use crate::http::extract::Json;
use crate::limits::PlanDecision;

/// A plan, and from when on.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PendingPlan {
    plan: String,
    effective_at: DateTime<Utc>,
}

impl PendingPlan {
    /// A subscription that waits; none for one that never was decided.
    pub(crate) fn of(subscription: &Subscription) -> Option<Self> {
        Some(Self { plan: subscription.plan.name.to_string(), effective_at: subscription.effective_at? })
    }
}

/// A user's plan after a change of it was asked for.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PlanChangeBody {
    /// The plan in force now.
    plan: String,
    /// The plan that was in force before the request.
    previous_plan: String,
    /// From when on the plan holds that was asked for; null for the free plan of a user who never changed.
    effective_at: Option<DateTime<Utc>>,
    /// The plan that waits for the month's end.
    pending: Option<PendingPlan>,
}

/// Time at which a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timing {
    /// At once when no limit falls, else at the month's end.
    WhenFair,
    /// At once.
    Now,
    /// At the month's end.
    MonthEnd,
}

/// A plan that is asked for.
#[derive(Debug)]
pub(crate) struct PlanRequest {
    pub(crate) user: UserId,
    pub(crate) plan: PlanName,
    pub(crate) timing: Timing,
    pub(crate) reason: Option<String>,
    /// The foreign event that caused it: it changes a user's plan once, ever.
    pub(crate) source_event_id: Option<String>,
    pub(crate) actor: Actor<'static>,
    /// Id of the event, if the request publishes one.
    pub(crate) event_id: Uuid,
}

/// The outcome of a request.
#[derive(Debug)]
pub(crate) struct PlanAnswer {
    pub(crate) body: PlanChangeBody,
    /// The change in the log; none when nothing had to change.
    written: Option<Written>,
}

impl PlanAnswer {
    /// 200, or 202 while the projections do not hold the change.
    pub(super) fn into_response(self) -> Response {
        match self.written {
            Some(written) => written.answer(StatusCode::OK, Json(self.body)),
            None => Json(self.body).into_response(),
        }
    }
}

/// State on which the request is decided.
struct Before {
    plans: PlanState,
    sold: Vec<SoldPlan>,
    /// Sequence of the change that the same request, or the same foreign event, caused already.
    known: Option<u64>,
}

/// A change to publish: the terms, and from when on.
struct Change {
    plan: Plan,
    effective_at: DateTime<Utc>,
}

impl Plans {
    /// Decides and records a change of plan, and waits a little for the projections to hold it. To be run to its end,
    /// even when nobody waits for the answer: what is in the log must hold here from then on.
    pub(super) async fn change(&self, request: PlanRequest) -> Result<PlanAnswer, PlansError> {
        let Parts { projections, writer, turns, .. } = &*self.0;
        let mut last_change = turns.of(request.user.get()).await?;
        if last_change.is_lost {
            *last_change = LastChange { seq: projections.settled_seq().await?, is_lost: false };
        }
        if !projections.wait_for(last_change.seq, PROJECTED_WITHIN).await {
            return Err(PlansError::NotProjected);
        }
        // Read once it is this request's turn: every earlier change has taken effect by then.
        let now = writer.now();
        let before = self.read(&request, now).await?;
        if let Some(seq) = before.known {
            let written = Some(writer.found(seq));
            return Ok(PlanAnswer { body: unchanged(&before.plans), written });
        }
        let target = terms(&before, &request.plan)?;
        let Some(change) = decide(&before.plans, target, &request, now) else {
            return Ok(PlanAnswer { body: unchanged(&before.plans), written: None });
        };
        let recorded = writer.record(&event(&request, &before.plans.current.plan, &change, now)).await;
        last_change.is_lost = recorded.is_err_and(PublishError::may_be_recorded);
        let seq = recorded?;
        last_change.seq = seq;
        self.hold_to(request.user, seq, &change);
        let written = writer.projected(seq).await;
        Ok(PlanAnswer { body: changed(&before.plans, &change, now), written: Some(written) })
    }

    async fn read(&self, request: &PlanRequest, now: DateTime<Utc>) -> Result<Before, PlansError> {
        let (mut conn, _) = self.0.projections.snapshot().await?;
        let known = match &request.source_event_id {
            Some(id) => store::read::plans::by_source_event(&mut conn, request.user, id).await?,
            // Of a request that is tried again the first try may have been decided, and others after it.
            None => store::projection::claims::seq_of(&mut conn, request.event_id).await?,
        };
        let plans = store::read::plans::state(&mut conn, request.user, now).await?;
        Ok(Before { plans, sold: store::read::plans::sold(&mut conn).await?, known })
    }

    /// The next call is held to the new plan, before the projections have it.
    fn hold_to(&self, user: UserId, seq: u64, change: &Change) {
        let terms = Terms { plan: change.plan.name.clone(), limits: change.plan.limits() };
        let decision = PlanDecision { seq, effective_at: change.effective_at, terms: Arc::new(terms) };
        self.0.limits.decide_plan(user, decision);
    }
}

/// The terms of the plan that is asked for: those that the user has, when it is theirs, else those of today.
fn terms(before: &Before, name: &PlanName) -> Result<Plan, PlansError> {
    let current = &before.plans.current.plan;
    if current.name == *name {
        return Ok(current.clone());
    }
    let sold = before.sold.iter().find(|sold| sold.plan.name == *name);
    sold.map(|sold| sold.plan.clone()).ok_or_else(|| PlansError::UnknownPlan {
        on_sale: before.sold.iter().map(|sold| sold.plan.name.to_string()).collect(),
    })
}

/// The change that has to be recorded; none when everything is as asked for already. A foreign event is recorded even
/// then: its repetition must not change a plan that was changed in between.
fn decide(plans: &PlanState, target: Plan, request: &PlanRequest, now: DateTime<Utc>) -> Option<Change> {
    let current = &plans.current.plan;
    let same = current.name == target.name;
    let at_once = match request.timing {
        // To stay on the plan is to withdraw what waits, which has to hold before it would take effect.
        _ if same => true,
        Timing::Now => true,
        Timing::MonthEnd => false,
        Timing::WhenFair => !limit_falls(current, &target),
    };
    let effective_at = if at_once { now } else { Month::of(now).end() };
    let as_asked = match &plans.pending {
        None => same,
        Some(pending) => {
            !at_once && pending.plan.name == target.name && pending.effective_at == Some(effective_at)
        }
    };
    (!as_asked || request.source_event_id.is_some()).then_some(Change { plan: target, effective_at })
}

/// Tells whether the new plan grants less of any meter.
fn limit_falls(current: &Plan, target: &Plan) -> bool {
    let allowance = |plan: &Plan, meter| plan.limit(meter).unwrap_or(u64::MAX);
    Meter::ALL.into_iter().any(|meter| allowance(target, meter) < allowance(current, meter))
}

fn event<'a>(request: &'a PlanRequest, current: &Plan, change: &Change, now: DateTime<Utc>) -> Event<'a> {
    let body = PlanChanged {
        plan_name: change.plan.name.clone(),
        monthly_api_limit: change.plan.monthly_api_limit,
        analyze_limit: change.plan.analyze_limit,
        price_monthly: change.plan.price_monthly,
        currency: change.plan.currency,
        effective_at: change.effective_at,
        previous_plan: Some(current.name.clone()),
        reason: request.reason.as_deref().map(Cow::Borrowed),
        source_event_id: request.source_event_id.as_deref().map(Cow::Borrowed),
        actor: request.actor.clone(),
    };
    Event::by_api(event_id(request), request.user, now, Body::PlanChanged(body))
}

/// The same foreign event always makes the same event of ours, which the projector applies once: so too when another
/// instance, or this one before a crash, has published it in the same moment.
fn event_id(request: &PlanRequest) -> Uuid {
    match &request.source_event_id {
        Some(id) => derived_id(&[b"plan_changed", request.user.get().as_bytes(), id.as_bytes()]),
        None => request.event_id,
    }
}

fn unchanged(plans: &PlanState) -> PlanChangeBody {
    PlanChangeBody {
        plan: plans.current.plan.name.to_string(),
        previous_plan: plans.current.plan.name.to_string(),
        effective_at: plans.pending.as_ref().unwrap_or(&plans.current).effective_at,
        pending: plans.pending.as_ref().and_then(PendingPlan::of),
    }
}

fn changed(plans: &PlanState, change: &Change, now: DateTime<Utc>) -> PlanChangeBody {
    let previous_plan = plans.current.plan.name.to_string();
    let name = change.plan.name.to_string();
    let waits = change.effective_at > now;
    PlanChangeBody {
        plan: if waits { previous_plan.clone() } else { name.clone() },
        previous_plan,
        effective_at: Some(change.effective_at),
        pending: waits.then_some(PendingPlan { plan: name, effective_at: change.effective_at }),
    }
}

#[cfg(test)]
mod tests;
