//! Health, readiness, shutdown, and what is recorded of our own routes.

use std::time::Duration;

use anyhow::Result;
use events::Body;
use serde_json::json;
use store::operations::projector_status;
use testkit::{Role, World, wait_until};

use crate::answers::assert_problem;

#[tokio::test]
async fn ready_says_how_everything_is() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let client = world.anonymous()?;
    assert_eq!(client.get("/healthz").send().await?.expect(200)?.json()?["status"], "ok");
    let ready = client.get("/readyz").send().await?.expect(200)?.json()?;
    assert_eq!(ready["status"], "ready");
    assert_eq!((&ready["database"]["status"], &ready["log"]["status"]), (&json!("ok"), &json!("ok")));
    assert_eq!(
        ready["projector"]["state"], "absent",
        "there is no worker here, and that is no reason for a 503"
    );

    assert_eq!(ready["limits"], json!({"status": "ready", "reason": null}));

    let mut conn = world.env.pool().acquire().await?;
    let instance = world.env.ids.random_id();
    let stopped = projector_status::State::Stopped;
    projector_status::set(&mut conn, 0, instance, stopped, Some("frames 3..=4 are missing"), 2).await?;
    wait_until(Duration::from_secs(5), || async {
        let answer = client.get("/readyz").send().await.expect("an answer");
        let projector =
            answer.expect(200).and_then(|answer| answer.json()).expect("a report")["projector"].clone();
        projector["state"] == "stopped" && projector["reason"] == "frames 3..=4 are missing"
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn headers_of_every_answer() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    for path in ["/healthz", "/nowhere", "/api/usage/stats"] {
        let answer = world.anonymous()?.get(path).send().await?;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        let policy = answer.header("content-security-policy");
        assert_eq!(policy, Some("default-src 'none'; frame-ancestors 'none'"), "{path}");
        assert!(answer.header("x-request-id").is_some(), "{path}");
        assert_eq!(answer.header("server"), None, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn browsers_of_allowed_origins_may_call() -> Result<()> {
    let world = World::without_worker(&[("CORS_ALLOWED_ORIGINS", "https://app.example")]).await?;
    let preflight = |origin: &'static str| {
        let client = world.anonymous();
        async move {
            client?
                .request(axum::http::Method::OPTIONS, "/api/usage/stats")
                .header("origin", origin)
                .header("access-control-request-method", "GET")
                .header("access-control-request-headers", "authorization")
                .send()
                .await
        }
    };
    let allowed = preflight("https://app.example").await?.expect(200)?;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    let other = preflight("https://evil.example").await?;
    assert_eq!(other.header("access-control-allow-origin"), None);
    let refused =
        world.anonymous()?.get("/api/usage/stats").header("origin", "https://app.example").send().await?;
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some("https://app.example"),
        "a page may read the 401"
    );
    let wrong_method = world.anonymous()?.post("/api/usage/stats").send().await?;
    assert_problem(&wrong_method, 405, "method_not_allowed");
    Ok(())
}

#[tokio::test]
async fn own_routes_are_recorded_uncounted_under_their_template() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let service = world.service()?;
    service.put("/api/users/secret-name").json(&json!({})).send().await?.expect(201)?;
    world.anonymous()?.get("/api/usage/stats").send().await?.expect(401)?;
    wait_until(Duration::from_secs(5), || async { world.api.handle.publisher.last_acked() > 0 }).await;
    let frame = world.api.handle.log.frame_at(1).await?.expect("the first frame");
    let events = events::decode_batch(&frame.body)?;
    assert_eq!(events.len(), 1, "what had no principal is not recorded");
    let event = events[0].as_ref().expect("an event of ours");
    let Body::ApiCalled(call) = &event.body else { panic!("{event:?}") };
    assert_eq!(call.endpoint, "/api/users/{user}");
    assert_eq!((call.method.as_deref(), call.status_code), (Some("PUT"), Some(201)));
    assert!(!call.counted);
    assert!(!String::from_utf8_lossy(&frame.body).contains("secret-name"));
    Ok(())
}

#[tokio::test]
async fn a_shutdown_answers_what_is_in_flight_and_keeps_what_was_offered() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let client = world.client("leaving", Role::Service)?;
    let requests = (0..20).map(|n| {
        let client = client.clone();
        async move { client.put(&format!("/api/users/leaving-{n}")).json(&json!({})).send().await }
    });
    for answer in futures_util::future::try_join_all(requests).await? {
        answer.expect(201)?;
    }
    let log = world.api.handle.log.clone();
    let publisher = world.api.handle.publisher.clone();
    world.api.stop().await?;
    assert_eq!(log.state().await?.last_seq, publisher.last_acked());
    let mut recorded = 0;
    for seq in 1..=publisher.last_acked() {
        let frame = log.frame_at(seq).await?.expect("a frame");
        recorded += events::decode_batch(&frame.body)?.len();
    }
    // The log of a busy machine may be away for a moment, and an offer be dropped; most are there.
    assert!((1..=20).contains(&recorded), "{recorded}");
    client.get("/healthz").send().await.expect_err("nobody listens any more");
    Ok(())
}
