//! `GET /api/usage/statements[/{month}]`.

use serde_json::{Value, json};

use crate::world::{Role, World};

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_listed_as_issued_with_their_adjustments() {
    let world = World::start().await;
    for month in ["2026-08", "2026-09", "2026-10"] {
        world.issued(month, "pro", 5).await;
    }
    world.adjusted("2026-10", "2026-08", 2).await;
    let page = world.get("/api/usage/statements?limit=2").await;
    let months = |page: &Value| {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["month"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(months(&page), ["2026-10", "2026-09"]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = world.get(&format!("/api/usage/statements?cursor={cursor}")).await;
    assert_eq!((months(&rest), &rest["next_cursor"]), (vec!["2026-08".to_owned()], &json!(null)));

    let adjustment = |month: &str| json!([{"month": month, "total_calls": 2, "analyze_calls": 2, "auth_calls": 0, "other_calls": 0}]);
    assert_eq!(page["items"][0]["adjustments"], adjustment("2026-08"));
    assert_eq!(page["items"][1]["adjustments"], json!([]));
    assert_eq!(rest["items"][0]["adjusted_in"], adjustment("2026-10"));

    let mut august = world.get("/api/usage/statements/2026-08").await;
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
    let world = World::start().await;
    world.issued("2026-10", "pro", 5).await;
    assert_eq!(world.try_get("/api/usage/statements/2026-11").await.0, 404);
    let (status, problem) = world.try_get("/api/usage/statements/2026-1").await;
    assert_eq!((status, &problem["errors"][0]["parameter"]), (422, &json!("month")));
    let of_user = format!("/api/usage/statements/2026-10?user_id={}", world.user);
    assert_eq!(world.get_as("operator", Role::Service, &of_user).await.0, 200);
    assert_eq!(world.get_as("stranger", Role::User, &of_user).await.0, 404);
    assert_eq!(world.get_as("stranger", Role::User, "/api/usage/statements/2026-10").await.0, 404);
    let (status, problem) = world.try_get("/api/usage/statements?cursor=AAAA").await;
    assert_eq!((status, &problem["code"]), (400, &json!("malformed_cursor")));
}
