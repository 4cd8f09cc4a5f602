//! `GET /api/usage/history`.

use ledger::Category;
use serde_json::{Value, json};

use crate::customer::{Customer, at};
use crate::usage::seed::Call;

#[tokio::test(flavor = "multi_thread")]
async fn this_month_by_day_and_category_is_complete() {
    let mut customer = Customer::start().await;
    let mut call = Call::at(at("2026-11-03T23:59:59.999999Z"), 1, Category::Analyze, "/api/analyze");
    (call.units, call.response_time_ms) = (3, Some(41));
    let uncounted = Call { counted: false, number: 2, ..call.clone() };
    let last_month = Call { created_at: at("2026-10-31T23:59:59.999999Z"), number: 3, ..call.clone() };
    customer.seed_calls(&[call, uncounted, last_month]).await;
    let history = customer.get("/api/usage/history?group_by=category").await;
    assert_eq!(
        (&history["from"], &history["to"]),
        (&json!("2026-11-01T00:00:00Z"), &json!("2026-12-01T00:00:00Z"))
    );
    assert_eq!((&history["granularity"], &history["group_by"]), (&json!("day"), &json!("category")));
    let items = history["items"].as_array().unwrap();
    assert_eq!(items.len(), 30 * 3);
    assert_eq!(items[0]["period"], json!("2026-11-01T00:00:00Z"));
    let used: Vec<&Value> = items.iter().filter(|item| item["units"] != json!(0)).collect();
    let expected = json!({"period": "2026-11-03T00:00:00Z", "group": "analyze", "units": 3, "calls": 1,
                          "avg_response_time_ms": 41});
    assert_eq!(used, [&expected]);
    let zero = json!({"period": "2026-11-01T00:00:00Z", "group": "analyze", "units": 0, "calls": 0,
                      "avg_response_time_ms": null});
    assert_eq!(items[0], zero);
    assert!(history["as_of"]["position"].is_string());
    let all = customer.get("/api/usage/history?granularity=month&counted=all").await;
    assert_eq!((&all["items"][0]["units"], &all["items"][0]["group"]), (&json!(6), &json!(null)));
    let uncounted = customer.get("/api/usage/history?granularity=month&counted=false").await;
    assert_eq!(uncounted["items"][0]["units"], json!(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fifty_largest_endpoints_and_the_others() {
    let mut customer = Customer::start().await;
    let mut calls: Vec<Call> = (1..=50)
        .map(|n| Call {
            units: 10,
            ..Call::at(at("2026-11-03T00:00:00Z"), n, Category::Other, &format!("/big/{n:02}"))
        })
        .collect();
    customer.seed_calls(&calls).await;
    let path = "/api/usage/history?granularity=month&group_by=endpoint";
    let fifty = customer.get(path).await["items"].clone();
    assert_eq!((fifty.as_array().unwrap().len(), &fifty[49]["group"]), (50, &json!("/big/50")));

    let mut other = Customer::start().await;
    calls.extend(
        (51..=60).map(|n| Call::at(at("2026-11-04T00:00:00Z"), n, Category::Other, &format!("/a/{n}"))),
    );
    other.seed_calls(&calls).await;
    let items = other.get(path).await["items"].clone();
    assert_eq!(items.as_array().unwrap().len(), 51);
    assert_eq!((&items[50]["group"], &items[50]["units"]), (&json!("__other__"), &json!(10)));
    let rows = other.get("/api/usage/calls?endpoint=__other__").await;
    assert_eq!((&rows["rows"], &rows["units"]), (&json!(10), &json!(10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_points_and_bad_parameters_are_refused() {
    let customer = Customer::start().await;
    let refused = async |query: &str| {
        let (status, problem) = customer.try_get(&format!("/api/usage/history?{query}")).await;
        assert_eq!(status, 422, "{query}: {problem}");
        let error = &problem["errors"][0];
        (error["parameter"].as_str().unwrap().to_owned(), error["code"].as_str().unwrap().to_owned())
    };
    let too_many = ("granularity".to_owned(), "too_many_points".to_owned());
    assert_eq!(refused("granularity=hour&from=2020-01-01&to=2026-01-01").await, too_many);
    assert_eq!(refused("granularity=hour&group_by=category&from=2026-01-01&to=2026-06-01").await, too_many);
    assert_eq!(refused("from=1970-01-01&to=9999-12-31").await, too_many);
    assert_eq!(refused("from=2026-11-02&to=2026-11-02").await.1, "empty_range");
    for (query, parameter) in [
        ("granularity=week", "granularity"),
        ("group_by=user", "group_by"),
        ("counted=maybe", "counted"),
        ("from=yesterday", "from"),
        ("to=2026-11-31", "to"),
        ("format=xml", "format"),
        ("granularty=day", "granularty"),
        ("from=2026-11-01&from=2026-11-02", "from"),
    ] {
        assert_eq!(refused(query).await.0, parameter, "{query}");
    }
    let years = customer.get("/api/usage/history?granularity=month&from=1970-01-01&to=2070-01-01").await;
    assert_eq!(years["items"].as_array().unwrap().len(), 1_200);
    let (status, problem) = customer.try_get("/api/usage/history?group_by=%ff").await;
    assert_eq!((status, &problem["code"]), (400, &json!("malformed_uri")));
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_says_the_same_and_runs_no_formula() {
    let mut customer = Customer::start().await;
    let mut call = Call::at(at("2026-11-03T00:00:00Z"), 1, Category::Other, "/api/x");
    call.method = Some("-X".to_owned());
    customer.seed_calls(&[call]).await;
    let path = "/api/usage/history?granularity=month&group_by=method";
    let by_format = customer.raw(&format!("{path}&format=csv"), &[]).await;
    let by_accept = customer.raw(path, &[("accept", "text/csv")]).await;
    let expected = "period,group,units,calls,avg_response_time_ms\r\n2026-11-01T00:00:00Z,'-X,1,1,\r\n";
    for (headers, body) in [by_format, by_accept] {
        assert_eq!(headers["content-type"], "text/csv; charset=utf-8; header=present");
        assert!(headers.contains_key("ledger-as-of"));
        assert_eq!(body, expected);
    }
    // Longer than one chunk, and every line of it.
    let (_, long) = customer.raw("/api/usage/history?granularity=hour&format=csv", &[]).await;
    assert_eq!(long.lines().count(), 1 + 30 * 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eleventh_request_in_a_second_is_asked_to_wait() {
    let customer = Customer::start_throttled().await;
    let mut last = (200, Value::Null);
    for _ in 0..200 {
        last = customer.try_get("/api/usage/history").await;
        if last.0 != 200 {
            break;
        }
    }
    assert_eq!((last.0, &last.1["code"]), (429, &json!("rate_limited")));
}
