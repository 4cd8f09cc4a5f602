//! `GET /api/usage/stats`.

use events::Event;
use ledger::{Category, Meter};
use serde_json::json;
use testkit::Role;

use crate::customer::{Customer, at};
use crate::usage::seed::Call;

fn calls(count: u64, category: Category, first: u64) -> Vec<Call> {
    (0..count).map(|n| Call::at(at("2026-11-03T12:00:00Z"), first + n, category, "/api/x")).collect()
}

fn called(customer: &Customer, calls: &[Call]) -> Vec<Event<'static>> {
    calls.iter().map(|call| customer.called(call)).collect()
}

/// Eleven analyze calls, and how they crossed the limit of ten.
fn beyond_analyze(customer: &Customer) -> Vec<Event<'static>> {
    let mut past = called(customer, &calls(11, Category::Analyze, 1));
    past.push(customer.crossed(Meter::Analyze, 80, "2026-11-03T12:00:00Z"));
    past.push(customer.crossed(Meter::Analyze, 100, "2026-11-03T12:00:01Z"));
    past
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_user_stands_at_zero_of_the_free_plan() {
    let customer = Customer::start().await;
    let figures = customer.get("/api/usage/stats").await;
    assert_eq!(figures["user_id"], json!(customer.user.to_string()));
    let plan = json!({"plan_name": "free", "price_monthly": "0.00", "currency": "USD", "pending": null});
    assert_eq!(figures["plan"], plan);
    assert_eq!(
        (&figures["month"], &figures["resets_at"]),
        (&json!("2026-11"), &json!("2026-12-01T00:00:00Z"))
    );
    assert_eq!((&figures["status"], &figures["blocked_meters"]), (&json!("ok"), &json!([])));
    let meter = |limit: u64| {
        json!({"used": 0, "limit": limit, "remaining": limit, "percentage": 0.0, "status": "ok",
               "warning_since": null, "blocked_since": null, "forecast": null})
    };
    assert_eq!((&figures["total"], &figures["analyze"]), (&meter(50), &meter(10)));
    assert_eq!(figures["by_category"], json!({"analyze": 0, "auth": 0, "other": 0}));
    assert_eq!(figures["avg_response_time_ms"], json!(null));
    assert_eq!(figures["as_of"]["lag_ms"], json!(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn meters_warn_and_block_apart() {
    let mut customer = Customer::start().await;
    let mut all = calls(8, Category::Analyze, 1);
    all.extend(calls(1, Category::Auth, 20));
    all.extend(calls(3, Category::Other, 30));
    all[0].response_time_ms = Some(41);
    all[1].response_time_ms = Some(42);
    let mut past = called(&customer, &all);
    past.push(customer.crossed(Meter::Analyze, 80, "2026-11-03T12:00:00Z"));
    customer.seed(past).await;
    customer.set_now("2026-11-25T00:00:00Z");
    let figures = customer.get("/api/usage/stats").await;
    assert_eq!((&figures["status"], &figures["blocked_meters"]), (&json!("warning"), &json!([])));
    assert_eq!(figures["by_category"], json!({"analyze": 8, "auth": 1, "other": 3}));
    assert_eq!(figures["avg_response_time_ms"], json!(41));
    let (total, analyze) = (&figures["total"], &figures["analyze"]);
    assert_eq!(
        (&total["used"], &total["remaining"], &total["percentage"]),
        (&json!(12), &json!(38), &json!(24.0))
    );
    assert_eq!((&total["status"], &total["warning_since"]), (&json!("ok"), &json!(null)));
    assert_eq!((&analyze["used"], &analyze["percentage"]), (&json!(8), &json!(80.0)));
    assert_eq!(analyze["warning_since"], json!("2026-11-03T12:00:00Z"));
    assert_eq!(analyze["blocked_since"], json!(null));
    // 12 units in the 21.5 days since the first call, 27.5 of which there will have been.
    assert_eq!(total["forecast"], json!({"at_month_end": 16, "limit_reached_at": null}));
    assert_eq!(analyze["forecast"]["at_month_end"], json!(11));
    let reached = at(analyze["forecast"]["limit_reached_at"].as_str().unwrap());
    assert!(reached > at("2026-11-25T00:00:00Z") && reached < at("2026-12-01T00:00:00Z"), "{reached}");
}

#[tokio::test(flavor = "multi_thread")]
async fn analyze_at_its_limit_is_the_one_that_blocks() {
    let mut customer = Customer::start().await;
    let past = beyond_analyze(&customer);
    customer.seed(past).await;
    let figures = customer.get("/api/usage/stats").await;
    assert_eq!((&figures["status"], &figures["blocked_meters"]), (&json!("blocked"), &json!(["analyze"])));
    assert_eq!(figures["analyze"]["blocked_since"], json!("2026-11-03T12:00:01Z"));
    assert_eq!(
        (&figures["analyze"]["remaining"], &figures["analyze"]["percentage"]),
        (&json!(0), &json!(110.0))
    );
    assert_eq!(figures["total"]["status"], json!("ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_of_a_smaller_plan_is_past() {
    let mut customer = Customer::start().await;
    let mut past = beyond_analyze(&customer);
    past.push(customer.subscribed("pro", (Some(100), Some(100)), "2026-11-04T00:00:00Z"));
    customer.seed(past).await;
    let analyze = customer.get("/api/usage/stats").await["analyze"].clone();
    assert_eq!((&analyze["status"], &analyze["limit"]), (&json!("ok"), &json!(100)));
    assert_eq!((&analyze["warning_since"], &analyze["blocked_since"]), (&json!(null), &json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_month_has_the_plan_of_its_end() {
    let mut customer = Customer::start().await;
    let past = vec![
        customer.subscribed("pro", (Some(500), Some(500)), "2026-10-31T23:59:59Z"),
        customer.subscribed("enterprise", (None, None), "2026-11-10T00:00:00Z"),
        customer.subscribed("free", (Some(50), Some(50)), "2026-12-01T00:00:00Z"),
    ];
    customer.seed(past).await;
    let plan = async |month: &str| {
        let figures = customer.get(&format!("/api/usage/stats?month={month}")).await;
        (
            figures["plan"]["plan_name"].clone(),
            figures["plan"]["pending"].clone(),
            figures["total"]["limit"].clone(),
        )
    };
    assert_eq!(plan("2026-09").await, (json!("free"), json!(null), json!(50)));
    assert_eq!(plan("2026-10").await, (json!("pro"), json!(null), json!(500)));
    let pending = json!({"plan": "free", "effective_at": "2026-12-01T00:00:00Z"});
    assert_eq!(plan("2026-11").await, (json!("enterprise"), pending, json!(null)));
    assert_eq!(plan("2026-12").await, (json!("free"), json!(null), json!(50)));
    let unlimited = customer.get("/api/usage/stats").await["total"].clone();
    assert_eq!((&unlimited["remaining"], &unlimited["percentage"]), (&json!(null), &json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_service_and_admin_see_others() {
    let mut customer = Customer::start().await;
    customer.seed_calls(&calls(2, Category::Other, 1)).await;
    let path = format!("/api/usage/stats?user_id={}", customer.user);
    for role in [Role::Service, Role::Admin] {
        let (status, figures) = customer.get_as("operator", role, &path).await;
        assert_eq!((status, &figures["total"]["used"]), (200, &json!(2)));
    }
    assert_eq!(customer.get_as("stranger", Role::User, &path).await.0, 404);
    assert_eq!(customer.get_as("operator", Role::Admin, "/api/usage/stats?user_id=nobody").await.0, 404);
    for (query, parameter) in [("month=2026-13", "month"), ("month=26-01", "month"), ("moth=2026-01", "moth")]
    {
        let (status, problem) = customer.try_get(&format!("/api/usage/stats?{query}")).await;
        assert_eq!((status, &problem["errors"][0]["parameter"]), (422, &json!(parameter)), "{query}");
    }
}
