//! Health, readiness, shutdown, and what is recorded of our own routes.

use std::time::Duration;

use anyhow::Result;
use events::{Body, StatusClass};
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

/// Everything answers, and users cannot be read: who is not known yet is refused, and so the instance is not ready. It
/// finds out by itself when that is over.
#[tokio::test]
async fn not_ready_while_users_cannot_be_read() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let client = world.anonymous()?;
    let mut held = world.env.pool().begin().await?;
    sqlx::query("LOCK TABLE monthly_usage_summary IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await?;
    let call = world.user("unread")?.get("/api/forward-auth").header("x-forwarded-uri", "/api/x");
    call.header("x-forwarded-method", "GET").send().await?.expect(503)?;
    let report = client.get("/readyz").send().await?.expect(503)?.json()?;
    assert_eq!((&report["database"]["status"], &report["log"]["status"]), (&json!("ok"), &json!("ok")));
    assert_eq!((&report["status"], &report["limits"]["status"]), (&json!("unavailable"), &json!("unready")));
    held.rollback().await?;
    wait_until(Duration::from_secs(10), || async {
        client.get("/readyz").send().await.is_ok_and(|answer| answer.status == 200)
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
async fn own_routes_are_counted_in_one_event_under_their_templates() -> Result<()> {
    let mut world = World::without_worker(&[]).await?;
    let begun = world.env.clock.now();
    // Ten seconds of which nothing has passed yet.
    let window =
        begun + chrono::TimeDelta::milliseconds(10_000 - begun.timestamp_millis().rem_euclid(10_000));
    world.env.clock.set(window);
    let (service, user) = (world.service()?, world.user("curious")?);
    service.put("/api/users/secret-name").json(&json!({})).send().await?.expect(201)?;
    service.put("/api/users/secret-name").json(&json!({"status": "x"})).send().await?.expect(422)?;
    for n in 0..300 {
        user.get(&format!("/api/tokens/secret-{n}")).send().await?.expect(404)?;
    }
    world.anonymous()?.get("/api/usage/stats").send().await?.expect(401)?;
    world.anonymous()?.get("/healthz").send().await?.expect(200)?;
    assert_eq!(world.api.handle.publisher.last_acked(), 0, "the ten seconds have not ended");
    world.env.clock.set(window + chrono::TimeDelta::seconds(10));
    wait_until(Duration::from_secs(5), || async { world.api.handle.publisher.last_acked() > 0 }).await;

    let frame = world.api.handle.log.frame_at(1).await?.expect("the first frame");
    assert!(!String::from_utf8_lossy(&frame.body).contains("secret-"));
    let mut found = Vec::new();
    for event in events::decode_batch(&frame.body)? {
        let Body::OwnCalls(own) = event.expect("an event of ours").body else { panic!("another event") };
        assert_eq!(own.window_start.timestamp(), window.timestamp());
        found.extend(
            own.counts.into_iter().map(|count| (count.route.into_owned(), count.status, count.calls)),
        );
    }
    found.sort();
    assert_eq!(
        found,
        [
            ("GET /api/tokens/{id}".to_owned(), StatusClass::ClientError, 300),
            ("PUT /api/users/{user}".to_owned(), StatusClass::Success, 1),
            ("PUT /api/users/{user}".to_owned(), StatusClass::ClientError, 1),
        ]
    );
    // In a table of their own, and none among the calls.
    world.start_worker();
    world.wait_until_projected().await?;
    assert_eq!(world.text("SELECT count(*)::text FROM own_calls").await?, "2");
    assert_eq!(world.text("SELECT count(*)::text FROM api_usage").await?, "0");
    let calls =
        "SELECT sum((count ->> 'calls')::int)::text FROM own_calls, json_array_elements(counts) AS count";
    assert_eq!(world.text(calls).await?, "302");
    let export = user.get("/api/users/me/export").send().await?.expect(200)?.json()?;
    let own = json!({"route": "GET /api/tokens/{id}", "status": "4xx", "calls": 300});
    assert_eq!(export["own_calls"][0]["counts"], json!([own]));
    Ok(())
}

#[tokio::test]
async fn whoever_hangs_up_has_called_too() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    // So that the caller is known before anybody hangs up.
    world.service()?.get("/api/usage/stats").send().await?.expect(200)?;
    let token = world.env.token("backend", Role::Service);
    let mut stream = tokio::net::TcpStream::connect(world.api.url.trim_start_matches("http://")).await?;
    let head = format!(
        "PUT /api/users/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await?;
    // It is asked for the body once it is known who calls.
    let mut begin = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut begin).await?;
    assert_eq!(begin, *b"HTTP/1.1 100");
    drop(stream);
    wait_until(Duration::from_secs(10), || async {
        world.env.clock.set(world.env.clock.now() + chrono::TimeDelta::seconds(10));
        let mut found = false;
        for seq in 1..=world.api.handle.publisher.last_acked() {
            let frame = world.api.handle.log.frame_at(seq).await.expect("the log").expect("a frame");
            found |=
                String::from_utf8_lossy(&frame.body).contains(r#""PUT /api/users/{user}","status":"4xx""#);
        }
        found
    })
    .await;
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
        for event in events::decode_batch(&frame.body)? {
            let Body::OwnCalls(own) = event.expect("an event of ours").body else { panic!("another event") };
            recorded += own.counts.iter().map(|count| count.calls).sum::<u64>();
        }
    }
    assert_eq!(recorded, 20);
    client.get("/healthz").send().await.expect_err("nobody listens any more");
    Ok(())
}
