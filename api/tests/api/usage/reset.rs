//! `POST /api/usage/reset`, with a real worker behind the log.

use serde_json::{Value, json};
use testkit::Role;

use crate::customer::Customer;

impl Customer {
    async fn reset(&self, who: (&str, Role), body: Value) -> (u16, Value) {
        let (status, _, answer) = self.send_json(who, "POST", "/api/usage/reset", &[], &body).await;
        (status, answer)
    }

    /// Reports calls as the host's backend would, and waits until they are counted.
    pub(crate) async fn report(&self, calls: u64) {
        let before = self.get("/api/usage/stats").await["total"]["used"].as_u64().unwrap();
        for _ in 0..calls {
            self.record_call("/api/analyze").await;
        }
        testkit::wait_until(std::time::Duration::from_secs(20), async || {
            self.get("/api/usage/stats").await["total"]["used"].as_u64() == Some(before + calls)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_start_anew_and_rows_stay() {
    let mut customer = Customer::start().await;
    customer.world.start_worker();
    customer.report(10).await;
    assert!(!customer.admits_analyze().await, "10 of 10 are used");
    let user = customer.user.to_string();
    let body = json!({"user_id": user, "reason": "goodwill"});
    let (status, answer) = customer.reset(("operator", Role::Admin), body).await;
    assert_eq!((status, &answer["user_id"], &answer["month"]), (200, &json!(user), &json!("2026-11")));
    let figures = customer.get("/api/usage/stats").await;
    assert_eq!((&figures["total"]["used"], &figures["by_category"]["analyze"]), (&json!(0), &json!(0)));
    assert!(customer.admits_analyze().await, "none of 10 is used");
    customer.report(2).await;
    let units =
        async |filter: &str| customer.get(&format!("/api/usage/calls?{filter}")).await["units"].clone();
    assert_eq!(units("").await, json!(12));
    assert_eq!(units("since_reset=true").await, json!(2));
    let history = customer.get("/api/usage/history?granularity=month").await;
    assert_eq!(history["items"][0]["units"], json!(12));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_reset_unless_self_reset_is_on() {
    let customer = Customer::start().await;
    let user = customer.user.to_string();
    let reason = json!({"reason": "again"});
    assert_eq!(customer.reset((&user, Role::User), reason.clone()).await.0, 403);
    assert_eq!(customer.reset(("host", Role::Service), json!({"user_id": user, "reason": "x"})).await.0, 403);

    let mut customer = Customer::with(&[("SELF_RESET", "true")], false).await;
    customer.world.start_worker();
    let user = customer.user.to_string();
    customer.report(1).await;
    assert_eq!(customer.reset((&user, Role::User), reason).await.0, 200);
    assert_eq!(customer.get("/api/usage/stats").await["total"]["used"], json!(0));
    let other = json!({"user_id": user, "reason": "x"});
    assert_eq!(customer.reset(("stranger", Role::User), other.clone()).await.0, 404);
    assert_eq!(customer.reset(("host", Role::Service), other).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_month_and_bad_bodies_are_refused() {
    let mut customer = Customer::start().await;
    let admin = ("operator", Role::Admin);
    for (body, pointer) in [
        (json!({}), "/reason"),
        (json!({"reason": ""}), "/reason"),
        (json!({"reason": 5}), "/reason"),
        (json!({"reason": "a\nb"}), "/reason"),
        (json!({"reason": "x", "month": "2026-10"}), "/month"),
    ] {
        let (status, problem) = customer.reset(admin, body.clone()).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{body}: {problem}");
    }
    let unknown = json!({"user_id": "nobody", "reason": "x"});
    assert_eq!(customer.reset(admin, unknown).await.0, 404);
    let past = vec![customer.closed("2026-11")];
    customer.seed(past).await;
    let body = json!({"user_id": customer.user.to_string(), "reason": "x"});
    let (status, problem) = customer.reset(admin, body).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_resets_once() {
    let mut customer = Customer::start().await;
    customer.world.start_worker();
    customer.report(1).await;
    let body = json!({"user_id": customer.user.to_string(), "reason": "goodwill"});
    let headers = [("idempotency-key", "reset-1")];
    let send = async || {
        customer.send_json(("operator", Role::Admin), "POST", "/api/usage/reset", &headers, &body).await
    };
    let (status, _, first) = send().await;
    assert_eq!(status, 200);
    customer.report(2).await;
    let (status, headers, second) = send().await;
    assert_eq!((status, &second, &headers["idempotency-replayed"]), (200, &first, &"true".parse().unwrap()));
    assert_eq!(customer.get("/api/usage/stats").await["total"]["used"], json!(2));
}
