//! Plans: what is sold, upgrades, and what the host decides. With a real worker behind the log.

use anyhow::Result;
use serde_json::{Value, json};
use testkit::{Api, Client, PATIENCE, Role, World, wait_until};

use crate::answers::assert_problem;
use crate::customer::{Customer, at};

const SELF_UPGRADE: &[(&str, &str)] = &[("SELF_UPGRADE", "true")];

impl Customer {
    async fn upgrade(&self, plan: &str) -> (u16, Value) {
        let user = self.user.to_string();
        let body = json!({"plan": plan});
        let (status, headers, answer) =
            self.send_json((&user, Role::User), "POST", "/api/usage/upgrade", &[], &body).await;
        assert!(status != 202 || headers.contains_key("ledger-seq"));
        (status, answer)
    }

    async fn put_plan(&self, body: Value) -> (u16, Value) {
        let path = format!("/api/users/{}/plan", self.user);
        let (status, _, answer) = self.send_json(("payments", Role::Service), "PUT", &path, &[], &body).await;
        (status, answer)
    }

    async fn plan(&self) -> (Value, Value) {
        let figures = self.get("/api/usage/stats").await;
        (figures["plan"]["plan_name"].clone(), figures["plan"]["pending"].clone())
    }

    async fn plan_changes(&self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM subscriptions WHERE user_id = $1");
        count.bind(self.user.get()).fetch_one(self.pool()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sold_is_public() {
    let customer = Customer::start().await;
    let (status, plans) = customer.anonymous("/api/usage/plans").await;
    assert_eq!(status, 200);
    let free = json!({
        "plan_name": "free", "monthly_api_limit": 50, "analyze_limit": 10, "price_monthly": "0.00", "currency": "USD",
        "features": ["Basic PR analysis", "Community support"],
    });
    assert_eq!(plans["items"][0], free);
    let names: Vec<&str> =
        plans["items"].as_array().unwrap().iter().map(|plan| plan["plan_name"].as_str().unwrap()).collect();
    assert_eq!(names, ["free", "pro", "enterprise"]);
    assert_eq!(plans["items"][2]["price_monthly"], json!("49.99"));
}

/// Nobody without a credential uses up the database's connections.
#[tokio::test(flavor = "multi_thread")]
async fn all_who_ask_for_the_plans_at_once_share_one_read() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let (anonymous, service) = (world.anonymous()?, world.service()?);
    service.put("/api/users/ada").json(&json!({})).send().await?.expect(201)?;
    let mut held = world.env.pool().begin().await?;
    sqlx::query("LOCK TABLE subscription_limits IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await?;
    let asking = (0..100).map(|_| anonymous.get("/api/usage/plans").send());
    let asking = tokio::spawn(futures_util::future::try_join_all(asking));
    let waiting = "SELECT count(*)::text FROM pg_locks
                   WHERE NOT granted AND relation = 'subscription_limits'::regclass";
    wait_until(PATIENCE, || async { world.text(waiting).await.is_ok_and(|waiting| waiting != "0") }).await;
    for n in 0..20 {
        service.put("/api/users/ada").json(&json!({"name": format!("{n}")})).send().await?.expect(200)?;
    }
    assert_eq!(world.text(waiting).await?, "1");
    held.commit().await?;
    for answer in asking.await?? {
        assert_eq!(answer.expect(200)?.json()?["items"].as_array().map(Vec::len), Some(3));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_holds_at_once_and_a_downgrade_from_next_month() {
    let mut customer = Customer::with(SELF_UPGRADE, false).await;
    customer.world.start_worker();
    let (status, answer) = customer.upgrade("pro").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["plan"], &answer["previous_plan"], &answer["pending"]),
        (&json!("pro"), &json!("free"), &json!(null))
    );
    assert!(at(answer["effective_at"].as_str().unwrap()) <= customer.world.env.clock.now());
    assert_eq!(customer.plan().await, (json!("pro"), json!(null)));
    let figures = customer.get("/api/usage/stats").await;
    assert_eq!(
        (&figures["total"]["limit"], &figures["plan"]["price_monthly"]),
        (&json!(500), &json!("9.99"))
    );

    let waits = json!({"plan": "free", "effective_at": "2026-12-01T00:00:00Z"});
    let (status, answer) = customer.upgrade("free").await;
    assert_eq!(status, 200);
    assert_eq!(
        (&answer["plan"], &answer["previous_plan"], &answer["pending"]),
        (&json!("pro"), &json!("pro"), &waits)
    );
    assert_eq!(answer["effective_at"], json!("2026-12-01T00:00:00Z"));
    assert_eq!(customer.plan().await, (json!("pro"), waits.clone()));

    // The same again changes nothing; the current plan withdraws it; another one takes its place.
    assert_eq!(customer.upgrade("free").await.1["pending"], waits);
    assert_eq!(customer.plan_changes().await, 2);
    assert_eq!(customer.upgrade("pro").await.1["pending"], json!(null));
    assert_eq!(customer.plan().await, (json!("pro"), json!(null)));
    customer.upgrade("enterprise").await;
    customer.upgrade("free").await;
    customer.upgrade("pro").await;
    let waits = json!({"plan": "pro", "effective_at": "2026-12-01T00:00:00Z"});
    assert_eq!(customer.plan().await, (json!("enterprise"), waits));

    customer.set_now("2026-12-01T00:00:00Z");
    assert_eq!(customer.plan().await, (json!("pro"), json!(null)));
    let november = customer.get("/api/usage/stats?month=2026-11").await;
    assert_eq!(november["plan"]["plan_name"], json!("enterprise"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_call_is_held_to_the_new_plan() {
    let mut customer = Customer::with(SELF_UPGRADE, false).await;
    customer.world.start_worker();
    customer.report(10).await;
    assert!(!customer.admits_analyze().await, "10 of 10 are used");
    assert_eq!(customer.upgrade("pro").await.0, 200);
    assert!(customer.admits_analyze().await, "10 of 100 are used");
    let reset = json!({"plan": "free", "effective": "now"});
    assert_eq!(customer.put_plan(reset).await.0, 200);
    assert!(!customer.admits_analyze().await, "11 of 10 are used or held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_needs_self_upgrade_and_is_told_where_to_go() {
    let mut customer = Customer::with(&[("UPGRADE_URL", "https://host.example/plans")], false).await;
    let (status, problem) = customer.upgrade("pro").await;
    assert_eq!((status, &problem["code"]), (403, &json!("forbidden")));
    assert_eq!(problem["upgrade"], json!({"plan": "pro", "url": "https://host.example/plans"}));
    let user = customer.user.to_string();
    let path = format!("/api/users/{user}/plan");
    let body = json!({"plan": "pro"});
    assert_eq!(customer.send_json((&user, Role::User), "PUT", &path, &[], &body).await.0, 403);
    customer.world.start_worker();
    let path = format!("/api/usage/upgrade?user_id={user}");
    assert_eq!(customer.send_json(("host", Role::Service), "POST", &path, &[], &body).await.0, 200);
    assert_eq!(
        customer.send_json(("host", Role::Admin), "POST", "/api/usage/upgrade?user_id=x", &[], &body).await.0,
        404
    );
    assert_eq!(customer.plan().await.0, json!("pro"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let customer = Customer::with(SELF_UPGRADE, false).await;
    let (status, problem) = customer.upgrade("platinum").await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/plan")));
    assert!(problem["detail"].as_str().unwrap().contains("free, pro, enterprise"), "{problem}");
    for (body, pointer) in [
        (json!({}), "/plan"),
        (json!({"plan": 1}), "/plan"),
        (json!({"plan": ""}), "/plan"),
        (json!({"plan": "p\u{0}ro"}), "/plan"),
        (json!({"plan": "pro", "price": 1}), "/price"),
        (json!({"plan": "pro", "effective": "soon"}), "/effective"),
        (json!({"plan": "pro", "reason": "x".repeat(2_000)}), "/reason"),
        (json!({"plan": "pro", "source_event_id": ""}), "/source_event_id"),
        (json!({"plan": "pro", "source_event_id": "a\u{202e}b"}), "/source_event_id"),
    ] {
        let (status, problem) = customer.put_plan(body.clone()).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{body}: {problem}");
    }
    let body = json!({"plan": "pro"});
    for user in ["nobody", "%00", "00000000-0000-0000-0000-000000000000"] {
        let path = format!("/api/users/{user}/plan");
        let (status, _, problem) =
            customer.send_json(("payments", Role::Service), "PUT", &path, &[], &body).await;
        assert_eq!(status, 404, "{user}: {problem}");
    }
    assert_eq!(customer.plan_changes().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_chooses_when() {
    let mut customer = Customer::start().await;
    customer.world.start_worker();
    let (status, answer) = customer.put_plan(json!({"plan": "enterprise", "effective": "month_end"})).await;
    assert_eq!(
        (status, &answer["plan"], &answer["pending"]["plan"]),
        (200, &json!("free"), &json!("enterprise"))
    );
    let (_, answer) =
        customer.put_plan(json!({"plan": "enterprise", "effective": "now", "reason": "paid"})).await;
    assert_eq!((&answer["plan"], &answer["pending"]), (&json!("enterprise"), &json!(null)));
    let (_, answer) = customer.put_plan(json!({"plan": "free", "effective": "now"})).await;
    assert_eq!((&answer["plan"], &answer["previous_plan"]), (&json!("free"), &json!("enterprise")));
    assert_eq!(customer.plan().await, (json!("free"), json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_foreign_event_changes_nothing() {
    let mut customer = Customer::start().await;
    customer.world.start_worker();
    let paid = json!({"plan": "pro", "effective": "now", "source_event_id": "evt_1"});
    let answers = futures_util::future::join_all((0..20).map(|_| customer.put_plan(paid.clone()))).await;
    for (status, answer) in answers {
        assert_eq!((status, &answer["plan"]), (200, &json!("pro")), "{answer}");
    }
    assert_eq!(customer.plan_changes().await, 1);
    customer.put_plan(json!({"plan": "free", "source_event_id": "evt_2"})).await;
    // The payment's message arrives once more, long after the plan was changed again.
    let (status, answer) = customer.put_plan(paid).await;
    assert_eq!((status, &answer["plan"]), (200, &json!("free")));
    assert_eq!((customer.plan().await.0, customer.plan_changes().await), (json!("free"), 2));
    // Even an event that finds the plan as it wants it is remembered.
    customer.put_plan(json!({"plan": "free", "source_event_id": "evt_3"})).await;
    customer.put_plan(json!({"plan": "pro"})).await;
    customer.put_plan(json!({"plan": "free", "source_event_id": "evt_3"})).await;
    assert_eq!(customer.plan().await.0, json!("pro"));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_are_decided_one_after_the_other() {
    let mut customer = Customer::with(SELF_UPGRADE, false).await;
    customer.world.start_worker();
    // Whatever their order, no limit ever falls at once: enterprise holds, and the others can only wait.
    let asked = ["pro", "enterprise", "pro", "free", "pro", "free"];
    let answers = futures_util::future::join_all(asked.map(|plan| customer.upgrade(plan))).await;
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(customer.plan().await.0, json!("enterprise"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_answer_is_202_and_holds_once_projected() {
    let mut customer = Customer::with(SELF_UPGRADE, false).await;
    let (status, answer) = customer.upgrade("pro").await;
    assert_eq!((status, &answer["plan"]), (202, &json!("pro")));
    assert_eq!(customer.plan().await.0, json!("free"), "read from the projection");
    // The next decision must not be made on what the projections do not show yet.
    let (status, problem) = customer.upgrade("free").await;
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")));
    customer.world.start_worker();
    testkit::wait_until(std::time::Duration::from_secs(20), async || customer.plan().await.0 == json!("pro"))
        .await;
    assert_eq!(customer.upgrade("free").await.1["pending"]["plan"], json!("free"));
}

/// Two apis overlap while the second waits for the first one's lock: what the first writes until it ends, the second
/// one has read before it decides about the same user.
#[tokio::test(flavor = "multi_thread")]
async fn a_starting_api_decides_on_what_the_one_before_it_wrote_last() -> Result<()> {
    let World { env, api, .. } = World::without_worker(&[]).await?;
    let put = async |api: &Api, path: &str, body: Value| {
        let client = Client::new(&api.url)?.with_token(env.token("payments", Role::Service));
        client.put(path).json(&body).send().await
    };
    put(&api, "/api/users/heir", json!({})).await?.expect(201)?;
    let starting = Api::start(&env, &[]);
    let ending = async {
        let asks = "SELECT EXISTS (SELECT FROM pg_stat_activity
                                   WHERE datname = current_database() AND query ~ '^SELECT (pg_try_adv|holder, )')";
        wait_until(PATIENCE, || async {
            sqlx::query_scalar(asks).fetch_one(env.pool()).await.is_ok_and(|asks: bool| asks)
        })
        .await;
        put(&api, "/api/users/heir/plan", json!({"plan": "pro"})).await?.expect(202)?;
        api.stop().await
    };
    let (second, ended) = tokio::join!(starting, ending);
    ended?;
    let second = second?;
    // Nothing projects the first change, so nobody can know on what the next one has to be decided.
    let answer = put(&second, "/api/users/heir/plan", json!({"plan": "enterprise"})).await?;
    assert_problem(&answer, 503, "unavailable");
    second.stop().await
}

/// The first try was decided and its answer lost; what was decided since stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_tried_again_does_not_undo_a_later_change() {
    let mut customer = Customer::with(SELF_UPGRADE, false).await;
    customer.world.start_worker();
    let user = customer.user.to_string();
    let headers = [("idempotency-key", "order-2")];
    let send = async || {
        let body = json!({"plan": "pro"});
        customer.send_json((&user, Role::User), "POST", "/api/usage/upgrade", &headers, &body).await
    };
    assert_eq!(send().await.0, 200);
    let lost = "UPDATE public.idempotency_keys SET status_code = NULL, headers = NULL, response = NULL,
                locked_until = created_at";
    sqlx::query(lost).execute(customer.pool()).await.unwrap();
    assert_eq!(customer.put_plan(json!({"plan": "enterprise", "effective": "now"})).await.0, 200);
    let (status, _, answer) = send().await;
    assert_eq!((status, &answer["plan"], &answer["pending"]), (200, &json!("enterprise"), &Value::Null));
    assert_eq!(customer.plan().await, (json!("enterprise"), Value::Null));
    assert_eq!(customer.plan_changes().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_gives_the_first_answer_again() {
    let mut customer = Customer::with(SELF_UPGRADE, false).await;
    customer.world.start_worker();
    let user = customer.user.to_string();
    let headers = [("idempotency-key", "order-1")];
    let send = async |plan: &str| {
        let body = json!({"plan": plan});
        customer.send_json((&user, Role::User), "POST", "/api/usage/upgrade", &headers, &body).await
    };
    let (status, first_headers, first) = send("pro").await;
    assert_eq!((status, &first["previous_plan"]), (200, &json!("free")));
    let (status, headers, second) = send("pro").await;
    assert_eq!((status, &second), (200, &first));
    assert_eq!(headers["idempotency-replayed"], "true");
    assert_eq!(headers["ledger-seq"], first_headers["ledger-seq"]);
    assert_eq!((send("free").await.0, customer.plan_changes().await), (422, 1));
}

#[tokio::test]
async fn a_user_changes_its_own_plan_and_month_ten_times_a_minute() -> Result<()> {
    let world = World::start().await?;
    let (user, service) = (world.user("restless")?, world.service()?);
    for n in 0..5 {
        let plan = json!({"plan": if n % 2 == 0 { "pro" } else { "enterprise" }});
        user.post("/api/usage/upgrade").json(&plan).send().await?.expect(200)?;
        user.post("/api/usage/reset").json(&json!({"reason": "again"})).send().await?.expect(200)?;
    }
    let refused = user.post("/api/usage/upgrade").json(&json!({"plan": "free"})).send().await?;
    assert_problem(&refused, 429, "rate_limited");
    assert!(refused.header("retry-after").is_some());
    let refused = user.post("/api/usage/reset").json(&json!({"reason": "again"})).send().await?;
    assert_problem(&refused, 429, "rate_limited");
    // What the host decides is not counted, nor is anybody else.
    let put = json!({"plan": "pro", "effective": "now"});
    service.put("/api/users/restless/plan").json(&put).send().await?.expect(200)?;
    world
        .user("patient")?
        .post("/api/usage/upgrade")
        .json(&json!({"plan": "pro"}))
        .send()
        .await?
        .expect(200)?;
    Ok(())
}
