//! No spelling of a path changes what is counted.

use anyhow::Result;
use serde_json::json;
use testkit::World;

#[tokio::test]
async fn tricks_with_a_path_change_nothing() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    service.put("/api/users/tricky").json(&json!({})).send().await?.expect(201)?;
    let pro = json!({"plan": "pro", "effective": "now"});
    service.put("/api/users/tricky/plan").json(&pro).send().await?.expect(200)?;
    let user = world.user("tricky")?;
    let analyses = [
        "/api/analyze",
        "/api/analyze/",
        "/api/analyze?x=/api/other",
        "//api/analyze",
        "/api//analyze",
        "/api///analyze//pull",
        "/./api/analyze",
        "/api/./analyze",
        "/api/x/../analyze",
        "/../api/analyze",
        "/api/%61nalyze",
        "/%61pi/analyze",
        "/api/an%61lyz%65",
        "/api/%2e%2e/api/analyze",
        "/api/x/%2E%2E/analyze",
        "/api/%2e/analyze",
        "/x/..//api/analyze",
        "/api/analyze/../analyze/7",
        "http://example.com/api/analyze",
        "HTTPS://example.com:8443/api/%61nalyze?q",
        "/api/analyze;jsessionid=1",
        "/api;v=1/analyze",
        "/api/analyze-all",
        "/api/analyze%20me",
        "/api/Analyze",
        "/API/analyze",
        "/api/%41NALYZE",
    ];
    for path in analyses {
        let answer = world.call(&user, path).await?;
        assert_eq!((answer.status.as_u16(), answer.header("x-usage-limit")), (204, Some("100")), "{path}");
    }
    let others = ["/api/analyze/../x", "/api/analyz", "/x/api/analyze", "/"];
    for path in others {
        let answer = world.call(&user, path).await?;
        assert_eq!((answer.status.as_u16(), answer.header("x-usage-limit")), (204, Some("500")), "{path}");
    }
    let refused = [
        "/api%2fanalyze",
        "/api%2Fanalyze",
        "/api%5canalyze",
        "/api/analyze#/api/other",
        "/x#/../api/analyze",
        "/api\\analyze",
        "/api/analyze%00",
        "/api/%0aanalyze",
        "/api/%",
        "/api/%zz",
        "/api/%c0%ae%c0%ae/analyze",
        "/api/..;x/analyze",
        "api/analyze",
        "",
        "ftp://example.com/api/analyze",
    ];
    for path in refused {
        let answer = world.call(&user, path).await?;
        assert_eq!(answer.status.as_u16(), 400, "{path:?}: {}", answer.text());
    }
    let counted = (i64::try_from(analyses.len())?, i64::try_from(others.len())?);
    assert_eq!(world.summary("tricky").await?, (counted.0 + counted.1, counted.0));
    assert_eq!(world.rows("tricky", "analyze").await?, (counted.0, counted.0));
    Ok(())
}

#[tokio::test]
async fn a_kept_slash_is_kept_wherever_a_path_comes_from() -> Result<()> {
    let (path, kept) = ("/api/v4/projects/group%2fproject/issues", "/api/v4/projects/group%2Fproject/issues");
    for (setting, is_kept) in [("keep", true), ("refuse", false)] {
        let world = World::with(&[("ENCODED_SLASH", setting)]).await?;
        let (user, service) = (world.user("gitlab")?, world.service()?);
        let status = if is_kept { 204 } else { 400 };
        world.call(&user, path).await?.expect(status)?;
        let to_envoy = if is_kept { 200 } else { 400 };
        user.get(&format!("/api/forward-auth/envoy{path}")).send().await?.expect(to_envoy)?;
        // It is one segment, and no way around the meter of another path.
        let answer = world.call(&user, "/api%2Fanalyze").await?.expect(status)?;
        assert_eq!(answer.header("x-usage-limit"), is_kept.then_some("50"));
        world.call(&user, "/api/x%2F..%2Fanalyze").await?.expect(400)?;
        let check = json!({"endpoint": path, "record": true});
        user.post("/api/usage/check").json(&check).send().await?.expect(if is_kept { 200 } else { 400 })?;
        let event = json!([{"id": "1", "subject": "gitlab", "data": {"endpoint": path}}]);
        let reported = service.post("/api/usage/events").json(&event).send().await?;
        assert_eq!(reported.status.as_u16(), if is_kept { 202 } else { 422 }, "{}", reported.text());
        world.wait_until_projected().await?;
        let endpoints: Vec<String> =
            sqlx::query_scalar("SELECT endpoint FROM api_usage WHERE counted ORDER BY log_seq, log_idx")
                .fetch_all(world.env.pool())
                .await?;
        let expected = [kept, kept, "/api%2Fanalyze", kept, kept];
        assert_eq!(endpoints, if is_kept { &expected[..] } else { &[] });
    }
    Ok(())
}
