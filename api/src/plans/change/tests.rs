//! Tests of decisions about a plan's change.

use super::*;

use events::ActorKind;
use ledger::{Currency, Money};

fn at(text: &str) -> DateTime<Utc> {
    ledger::time::parse(text).unwrap()
}

fn now() -> DateTime<Utc> {
    at("2026-11-24T03:00:00Z")
}

fn plan(name: &str, monthly_api_limit: Option<u64>, analyze_limit: Option<u64>) -> Plan {
    Plan {
        name: PlanName::new(name).unwrap(),
        monthly_api_limit,
        analyze_limit,
        price_monthly: Money::from_cents(0),
        currency: Currency::USD,
    }
}

fn on(current: Plan, pending: Option<Plan>) -> PlanState {
    PlanState {
        current: Subscription { plan: current, effective_at: Some(at("2026-10-05T00:00:00Z")) },
        pending: pending.map(|plan| Subscription { plan, effective_at: Some(at("2026-12-01T00:00:00Z")) }),
    }
}

fn request(timing: Timing, source_event_id: Option<&str>) -> PlanRequest {
    PlanRequest {
        user: UserId::new(Uuid::from_u128(1)),
        plan: PlanName::free(),
        timing,
        reason: None,
        source_event_id: source_event_id.map(str::to_owned),
        actor: Actor::new(ActorKind::User, "1"),
        event_id: Uuid::from_u128(2),
    }
}

fn decided(plans: &PlanState, target: &Plan, timing: Timing) -> Option<DateTime<Utc>> {
    decide(plans, target.clone(), &request(timing, None), now()).map(|change| change.effective_at)
}

#[test]
fn a_change_waits_when_any_limit_falls() {
    let pro = plan("pro", Some(500), Some(100));
    let month_end = Some(at("2026-12-01T00:00:00Z"));
    for (target, expected) in [
        (plan("more", Some(501), Some(100)), Some(now())),
        (plan("equal", Some(500), Some(100)), Some(now())),
        (plan("less", Some(50), Some(10)), month_end),
        (plan("mixed", Some(5_000), Some(99)), month_end),
        (plan("unlimited", None, None), Some(now())),
    ] {
        assert_eq!(decided(&on(pro.clone(), None), &target, Timing::WhenFair), expected, "{}", target.name);
    }
    let unlimited = plan("unlimited", None, None);
    assert_eq!(
        decided(&on(unlimited, None), &plan("huge", Some(u64::MAX - 1), None), Timing::WhenFair),
        month_end
    );
}

#[test]
fn an_operator_chooses_the_moment() {
    let (pro, free) = (plan("pro", Some(500), Some(100)), plan("free", Some(50), Some(10)));
    assert_eq!(decided(&on(pro.clone(), None), &free, Timing::Now), Some(now()));
    assert_eq!(decided(&on(free, None), &pro, Timing::MonthEnd), Some(at("2026-12-01T00:00:00Z")));
}

#[test]
fn the_current_plan_withdraws_what_waits_and_changes_nothing_else() {
    let (pro, free) = (plan("pro", Some(500), Some(100)), plan("free", Some(50), Some(10)));
    for timing in [Timing::WhenFair, Timing::Now, Timing::MonthEnd] {
        assert_eq!(decided(&on(pro.clone(), None), &pro, timing), None);
        assert_eq!(decided(&on(pro.clone(), Some(free.clone())), &pro, timing), Some(now()));
    }
}

#[test]
fn what_waits_is_replaced_by_another_and_not_by_itself() {
    let enterprise = plan("enterprise", Some(5_000), Some(1_000));
    let (pro, free) = (plan("pro", Some(500), Some(100)), plan("free", Some(50), Some(10)));
    let waiting = on(enterprise, Some(free.clone()));
    assert_eq!(decided(&waiting, &free, Timing::WhenFair), None);
    assert_eq!(decided(&waiting, &pro, Timing::WhenFair), Some(at("2026-12-01T00:00:00Z")));
    assert_eq!(decided(&waiting, &free, Timing::Now), Some(now()));
}

#[test]
fn a_foreign_event_is_recorded_even_when_nothing_changes() {
    let pro = plan("pro", Some(500), Some(100));
    let paid = request(Timing::Now, Some("evt_1"));
    assert!(decide(&on(pro.clone(), None), pro, &paid, now()).is_some());
    assert_eq!(event_id(&paid), event_id(&request(Timing::MonthEnd, Some("evt_1"))));
    assert_ne!(event_id(&paid), event_id(&request(Timing::Now, Some("evt_2"))));
    assert_eq!(event_id(&request(Timing::Now, None)), Uuid::from_u128(2));
}

#[test]
fn the_answer_tells_what_is_in_force_from_what_waits() {
    let (pro, free) = (plan("pro", Some(500), Some(100)), plan("free", Some(50), Some(10)));
    let at_once = changed(&on(free.clone(), None), &Change { plan: pro.clone(), effective_at: now() }, now());
    assert_eq!((at_once.plan.as_str(), at_once.previous_plan.as_str()), ("pro", "free"));
    assert!(at_once.pending.is_none());
    let month_end = at("2026-12-01T00:00:00Z");
    let later = changed(&on(pro, None), &Change { plan: free, effective_at: month_end }, now());
    assert_eq!((later.plan.as_str(), later.previous_plan.as_str()), ("pro", "pro"));
    assert_eq!(later.effective_at, Some(month_end));
    assert_eq!(later.pending.unwrap().plan, "free");
}
