//! Events of a past that a test makes up, and the projections that a worker makes of them.

use chrono::{DateTime, Utc};
use events::{
    Actor, ActorKind, ApiCalled, Body, Event, LimitThresholdCrossed, PeriodClosed, PlanChanged,
    SOURCE_WORKER, UsageReset,
};
use ledger::{Category, Currency, Meter, Money, Month, PlanName, UserId};
use nats::EncodedEvent;
use uuid::Uuid;

use crate::customer::{Customer, at};

/// A call to be found in the projections.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) created_at: DateTime<Utc>,
    /// Its place among a test's calls, which is its id too.
    pub(crate) number: u64,
    pub(crate) units: u32,
    pub(crate) category: Category,
    pub(crate) counted: bool,
    pub(crate) endpoint: String,
    pub(crate) method: Option<String>,
    pub(crate) status_code: Option<u16>,
    pub(crate) response_time_ms: Option<u32>,
}

impl Call {
    /// A counted, untimed call of one unit.
    pub(crate) fn at(created_at: DateTime<Utc>, number: u64, category: Category, endpoint: &str) -> Self {
        Self {
            created_at,
            number,
            units: 1,
            category,
            counted: true,
            endpoint: endpoint.to_owned(),
            method: Some("GET".to_owned()),
            status_code: Some(200),
            response_time_ms: None,
        }
    }
}

impl Customer {
    /// Records events of the past, in this order, and has a worker project them, which has ended then. Answers the
    /// sequence of the last one.
    pub(crate) async fn seed(&mut self, past: Vec<Event<'_>>) -> u64 {
        let encoded = past.iter().map(EncodedEvent::of).collect();
        let positions = self.world.api.handle.publisher.publish_all(encoded).await.unwrap();
        self.world.start_worker();
        self.world.wait_until_projected().await.unwrap();
        self.world.stop_worker().await.unwrap();
        positions.last().unwrap().seq
    }

    /// Seeds nothing but calls.
    pub(crate) async fn seed_calls(&mut self, calls: &[Call]) -> u64 {
        self.seed(calls.iter().map(|call| self.called(call)).collect()).await
    }

    /// The user made a call.
    pub(crate) fn called(&self, call: &Call) -> Event<'static> {
        let mut called = ApiCalled::new(call.endpoint.clone(), call.category);
        called.units = call.units;
        called.counted = call.counted;
        called.method = call.method.clone().map(Into::into);
        called.status_code = call.status_code;
        called.response_time_ms = call.response_time_ms;
        let id = Uuid::from_u128(u128::from(call.number));
        Event::by_api(id, self.user, call.created_at, Body::ApiCalled(called))
    }

    /// The user's meter passed a threshold in 2026-11.
    pub(crate) fn crossed(&self, meter: Meter, threshold_percent: u8, when: &str) -> Event<'static> {
        let month = "2026-11".parse().unwrap();
        let (used, limit) = (u64::from(threshold_percent), 100);
        let body = LimitThresholdCrossed { month, meter, threshold_percent, used, limit };
        self.by_worker(Some(self.user), at(when), Body::LimitThresholdCrossed(body))
    }

    /// The user's plan changed, to these limits of all calls and of analyze.
    pub(crate) fn subscribed(
        &self,
        plan: &str,
        limits: (Option<u64>, Option<u64>),
        effective_at: &str,
    ) -> Event<'static> {
        let effective_at = at(effective_at);
        let body = PlanChanged {
            plan_name: PlanName::new(plan).unwrap(),
            monthly_api_limit: limits.0,
            analyze_limit: limits.1,
            price_monthly: Money::from_cents(999),
            currency: Currency::USD,
            effective_at,
            previous_plan: None,
            reason: None,
            source_event_id: None,
            actor: actor(),
        };
        Event::by_api(self.world.env.ids.event_id(), self.user, effective_at, Body::PlanChanged(body))
    }

    /// The user's counters of a month start anew.
    pub(crate) fn restarted(&self, month: Month) -> Event<'static> {
        let (id, now) = (self.world.env.ids.event_id(), self.world.env.clock.now());
        let body = UsageReset { month, reason: "test".into(), actor: actor() };
        Event::by_api(id, self.user, now, Body::UsageReset(body))
    }

    /// A month was closed on 2026-11-01 at 01:00.
    pub(crate) fn closed(&self, month: &str) -> Event<'static> {
        let body = PeriodClosed { month: month.parse().unwrap() };
        self.by_worker(None, at("2026-11-01T01:00:00Z"), Body::PeriodClosed(body))
    }

    fn by_worker(&self, subject: Option<UserId>, time: DateTime<Utc>, body: Body<'static>) -> Event<'static> {
        Event::own(SOURCE_WORKER, self.world.env.ids.event_id(), subject, time, body)
    }
}

fn actor() -> Actor<'static> {
    Actor::new(ActorKind::Admin, "tester")
}
