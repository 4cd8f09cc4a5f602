//! `GET /api/usage/calls`: what a cursor is bound to, and what a row shows.

use ledger::Category;
use serde_json::json;
use testkit::Role;

use crate::customer::{Customer, at};
use crate::usage::seed::Call;

async fn world_with_calls() -> Customer {
    let mut customer = Customer::start().await;
    let calls: Vec<Call> = (1..=5)
        .map(|n| Call::at(at(&format!("2026-11-0{n}T00:00:00Z")), n, Category::Analyze, "/api/analyze"))
        .collect();
    customer.seed_calls(&calls).await;
    customer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_shows_the_call_as_recorded() {
    let customer = world_with_calls().await;
    let page = customer.get("/api/usage/calls?limit=1").await;
    assert_eq!((&page["rows"], &page["units"]), (&json!(5), &json!(5)));
    let mut item = page["items"][0].clone();
    assert!(item["position"].is_string());
    item["position"].take();
    let expected = json!({
        "id": "00000000-0000-0000-0000-000000000005", "created_at": "2026-11-05T00:00:00Z", "month": "2026-11",
        "endpoint": "/api/analyze", "method": "GET", "category": "analyze", "counted": true, "units": 1,
        "status_code": 200, "response_time_ms": null, "request_size": null, "response_size": null,
        "ip_address": null, "user_agent": null, "key_id": null, "position": null,
    });
    assert_eq!(item, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_holds_for_its_filters_and_its_user() {
    let customer = world_with_calls().await;
    let first = customer.get("/api/usage/calls?limit=2&category=analyze").await;
    let cursor = first["next_cursor"].as_str().unwrap().to_owned();
    let second = customer.get(&format!("/api/usage/calls?limit=3&category=analyze&cursor={cursor}")).await;
    assert_eq!((second["items"].as_array().unwrap().len(), &second["next_cursor"]), (3, &json!(null)));
    for query in [
        format!("limit=2&cursor={cursor}"),
        format!("category=auth&cursor={cursor}"),
        format!("category=analyze&counted=all&cursor={cursor}"),
        format!("category=analyze&since_reset=true&cursor={cursor}"),
        format!("category=analyze&from=2026-11-01&cursor={cursor}"),
        format!("category=analyze&cursor={}", &cursor[1..]),
        format!("category=analyze&cursor=B{}", &cursor[1..]),
        "category=analyze&cursor=".to_owned(),
        "category=analyze&cursor=%00".to_owned(),
    ] {
        let (status, problem) = customer.try_get(&format!("/api/usage/calls?{query}")).await;
        assert_eq!((status, &problem["code"]), (400, &json!("malformed_cursor")), "{query}");
    }
    let path = format!("/api/usage/calls?category=analyze&cursor={cursor}");
    assert_eq!(customer.get_as("stranger", Role::User, &path).await.0, 400);
    // The month that the first page was of has ended meanwhile.
    customer.set_now("2026-12-01T00:00:00Z");
    assert_eq!(customer.get(&path).await["items"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_parameters_are_named() {
    let customer = world_with_calls().await;
    for (query, parameter) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=ten", "limit"),
        ("status=99", "status"),
        ("status=600", "status"),
        ("status=ok", "status"),
        ("category=billing", "category"),
        ("method=GET%20", "method"),
        ("method=%00", "method"),
        ("endpoint=%00", "endpoint"),
        ("endpoint=", "endpoint"),
        ("since_reset=1", "since_reset"),
        ("counted=yes", "counted"),
        ("granularity=day", "granularity"),
        ("from=2026-11-05&to=2026-11-01", "from"),
    ] {
        let (status, problem) = customer.try_get(&format!("/api/usage/calls?{query}")).await;
        assert_eq!(
            (status, &problem["errors"][0]["parameter"]),
            (422, &json!(parameter)),
            "{query}: {problem}"
        );
    }
    for query in ["user_id=%00", "user_id=", "user_id=nobody"] {
        assert_eq!(customer.try_get(&format!("/api/usage/calls?{query}")).await.0, 404, "{query}");
    }
}
