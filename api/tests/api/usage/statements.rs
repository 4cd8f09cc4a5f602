//! `GET /api/usage/statements[/{month}]`.

use std::ops::Range;
use std::time::Duration;

use events::{Event, PeriodClosed};
use ledger::{Category, Month};
use serde_json::{Value, json};
use testkit::Role;

use crate::customer::{Customer, at};
use crate::usage::seed::Call;

/// The plan pro, long ago.
fn pro(customer: &Customer) -> Event<'static> {
    customer.subscribed("pro", (Some(500), Some(100)), "2026-07-01T00:00:00Z")
}

fn analyze_calls(customer: &Customer, month: &str, numbers: Range<u64>) -> Vec<Event<'static>> {
    let time = at(&format!("{month}-10T12:00:00Z"));
    numbers.map(|n| customer.called(&Call::at(time, n, Category::Analyze, "/api/analyze"))).collect()
}

/// Five analyze calls, and the end of their month.
fn issued(customer: &Customer, month: &str, first: u64) -> Vec<Event<'static>> {
    let mut events = analyze_calls(customer, month, first..first + 5);
    events.push(customer.closed(month));
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_listed_as_issued_with_their_adjustments() {
    let mut customer = Customer::start().await;
    let mut past = vec![pro(&customer)];
    past.extend(issued(&customer, "2026-08", 1));
    past.extend(issued(&customer, "2026-09", 11));
    // Two calls of August come when its statement is there, so that October's lists them.
    past.extend(analyze_calls(&customer, "2026-08", 21..23));
    past.extend(issued(&customer, "2026-10", 31));
    customer.seed(past).await;
    let page = customer.get("/api/usage/statements?limit=2").await;
    let months = |page: &Value| {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["month"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(months(&page), ["2026-10", "2026-09"]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = customer.get(&format!("/api/usage/statements?cursor={cursor}")).await;
    assert_eq!((months(&rest), &rest["next_cursor"]), (vec!["2026-08".to_owned()], &json!(null)));

    let adjustment = |month: &str| json!([{"month": month, "total_calls": 2, "analyze_calls": 2, "auth_calls": 0, "other_calls": 0}]);
    assert_eq!(page["items"][0]["adjustments"], adjustment("2026-08"));
    assert_eq!(page["items"][1]["adjustments"], json!([]));
    assert_eq!(rest["items"][0]["adjusted_in"], adjustment("2026-10"));

    let mut august = customer.get("/api/usage/statements/2026-08").await;
    assert!(august["as_of"]["position"].is_string());
    august.as_object_mut().unwrap().remove("as_of");
    assert_eq!(august, rest["items"][0]);
    let expected = json!({
        "month": "2026-08", "plan_name": "pro", "monthly_api_limit": 500, "analyze_limit": 100,
        "price_monthly": "9.99", "currency": "USD", "total_calls": 5, "analyze_calls": 5, "auth_calls": 0,
        "other_calls": 0, "issued_at": "2026-11-01T01:00:00Z", "adjustments": [],
        "adjusted_in": adjustment("2026-10"),
    });
    assert_eq!(august, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_issued_or_not_ones_own_is_not_found() {
    let mut customer = Customer::start().await;
    let mut past = vec![pro(&customer)];
    past.extend(issued(&customer, "2026-10", 1));
    customer.seed(past).await;
    assert_eq!(customer.try_get("/api/usage/statements/2026-11").await.0, 404);
    let (status, problem) = customer.try_get("/api/usage/statements/2026-1").await;
    assert_eq!((status, &problem["errors"][0]["parameter"]), (422, &json!("month")));
    let of_user = format!("/api/usage/statements/2026-10?user_id={}", customer.user);
    assert_eq!(customer.get_as("operator", Role::Service, &of_user).await.0, 200);
    assert_eq!(customer.get_as("stranger", Role::User, &of_user).await.0, 404);
    assert_eq!(customer.get_as("stranger", Role::User, "/api/usage/statements/2026-10").await.0, 404);
    let (status, problem) = customer.try_get("/api/usage/statements?cursor=AAAA").await;
    assert_eq!((status, &problem["code"]), (400, &json!("malformed_cursor")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_call_is_an_adjustment_of_the_next_statement() {
    let mut customer = Customer::start().await;
    customer.world.start_worker();
    let close = async |month: &str| {
        let month: Month = month.parse().unwrap();
        customer.publish(None, events::Body::PeriodClosed(PeriodClosed { month })).await;
        let path = format!("/api/usage/statements/{month}");
        testkit::wait_until(Duration::from_secs(20), async || customer.try_get(&path).await.0 == 200).await;
        customer.get(&path).await
    };
    customer.set_now("2026-10-30T00:00:00Z");
    customer.report(3).await;
    assert_eq!(close("2026-10").await["analyze_calls"], json!(3));
    customer.report(2).await;
    customer.set_now("2026-11-02T00:00:00Z");
    customer.report(4).await;
    let november = close("2026-11").await;
    assert_eq!((&november["total_calls"], &november["plan_name"]), (&json!(4), &json!("free")));
    let late = json!({"total_calls": 2, "analyze_calls": 2, "auth_calls": 0, "other_calls": 0});
    let of = |month: &str| {
        let mut adjustment = late.clone();
        adjustment["month"] = json!(month);
        json!([adjustment])
    };
    assert_eq!(november["adjustments"], of("2026-10"));
    let october = customer.get("/api/usage/statements/2026-10").await;
    assert_eq!((&october["total_calls"], &october["adjusted_in"]), (&json!(3), &of("2026-11")));
    assert_eq!(customer.get("/api/usage/stats?month=2026-10").await["total"]["used"], json!(5));

    let body = json!({"user_id": customer.user.to_string(), "reason": "too late"});
    let admin = ("operator", Role::Admin);
    let (status, _, problem) = customer.send_json(admin, "POST", "/api/usage/reset", &[], &body).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")));
}
