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
        "/api/analyze#/api/other",
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
    ];
    for path in analyses {
        let answer = world.call(&user, path).await?;
        assert_eq!((answer.status.as_u16(), answer.header("x-usage-limit")), (204, Some("100")), "{path}");
    }
    let others = ["/api/Analyze", "/API/analyze", "/api/analyze/../x", "/api/analyz", "/x/api/analyze", "/"];
    for path in others {
        let answer = world.call(&user, path).await?;
        assert_eq!((answer.status.as_u16(), answer.header("x-usage-limit")), (204, Some("500")), "{path}");
    }
    let refused = [
        "/api%2fanalyze",
        "/api%2Fanalyze",
        "/api%5canalyze",
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
