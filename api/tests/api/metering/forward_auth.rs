//! What a proxy hears.

use anyhow::{Context, Result};
use testkit::{Answer, Role, World};

#[tokio::test]
async fn ten_analyses_pass_and_the_eleventh_is_refused_with_every_header_and_field() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("free-user")?;
    for used in 1..=10 {
        let answer = world.call(&user, "/api/analyze/pull/7?verbose=1").await?.expect(204)?;
        let header = |name: &str| answer.header(name).with_context(|| format!("no {name}"));
        assert_eq!(header("x-usage-used")?, used.to_string());
        assert_eq!(header("x-usage-limit")?, "10");
        assert_eq!(header("x-usage-remaining")?, (10 - used).to_string());
        assert_eq!(header("x-usage-plan")?, "free");
        let warning = (used >= 8).then(|| format!("analyze;used={used};limit=10"));
        assert_eq!(answer.header("x-usage-warning"), warning.as_deref());
        assert!(header("ratelimit")?.starts_with(&format!("\"analyze\";r={};t=", 10 - used)));
        assert!(header("ratelimit-policy")?.starts_with("\"total\";q=50;w="));
        assert_eq!(header("x-user-id")?.len(), 36);
        assert_eq!(header("x-usage-call-id")?.len(), 36);
        assert!(answer.header("ledger-seq").is_some());
        assert!(answer.body.is_empty());
    }
    refused_with_everything(&world.call(&user, "/api/analyze/pull/7").await?)?;

    // Analyze at its limit blocks analyze alone: the other forty pass.
    for used in 11..=50 {
        let answer = world.call(&user, "/api/projects").await?.expect(204)?;
        assert_eq!(answer.header("x-usage-used"), Some(used.to_string().as_str()));
        assert_eq!(answer.header("x-usage-limit"), Some("50"));
    }
    let refused = world.call(&user, "/api/projects").await?.expect(429)?;
    assert_eq!(refused.json()?["meter"], "total");
    let refused = world.call(&user, "/api/analyze").await?.expect(429)?;
    assert_eq!(refused.json()?["violated-policies"], serde_json::json!(["total", "analyze"]));
    assert_eq!(world.summary("free-user").await?, (50, 10));
    Ok(())
}

fn refused_with_everything(answer: &Answer) -> Result<()> {
    let answer = answer.clone().expect(429)?;
    let header = |name: &str| answer.header(name).with_context(|| format!("no {name}"));
    assert_eq!(header("content-type")?, "application/problem+json");
    assert_eq!(header("x-should-retry")?, "false");
    assert!(header("retry-after")?.parse::<u64>()? > 0);
    assert!(header("ratelimit")?.starts_with("\"analyze\";r=0;t="));
    assert_eq!(header("x-usage-used")?, "10");
    assert_eq!(header("x-usage-remaining")?, "0");
    assert_eq!(header("x-usage-warning")?, "analyze;used=10;limit=10");
    assert!(header("x-usage-reset")?.parse::<i64>()? > 0);
    assert!(answer.header("x-usage-call-id").is_none());
    let body = answer.json()?;
    assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(body["code"], "quota_exceeded");
    assert_eq!(body["status"], 429);
    assert_eq!(body["violated-policies"], serde_json::json!(["analyze"]));
    assert_eq!(body["meter"], "analyze");
    assert_eq!((&body["limit"], &body["used"]), (&10.into(), &10.into()));
    assert_eq!(body["plan"], "free");
    assert!(body["resets_at"].as_str().context("resets_at")?.ends_with("-01T00:00:00Z"), "{body}");
    let upgrade = serde_json::json!({
        "plan": "pro", "monthly_api_limit": 500, "analyze_limit": 100, "price_monthly": "9.99",
        "url": "https://example.com/upgrade",
    });
    assert_eq!(body["upgrade"], upgrade);
    Ok(())
}

#[tokio::test]
async fn nginx_hears_403_and_only_when_it_asks_for_it() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("behind-nginx")?;
    let ask = |uri: &'static str, query: &'static str| {
        let request = user.get(&format!("/api/forward-auth{query}"));
        request.header("X-Original-URI", uri).header("X-Original-Method", "POST").send()
    };
    for _ in 0..10 {
        ask("/api/analyze", "?deny_status=403").await?.expect(204)?;
    }
    let refused = ask("/api/analyze", "?deny_status=403").await?.expect(403)?;
    assert_eq!(refused.code(), "quota_exceeded");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    ask("/api/analyze", "").await?.expect(429)?;
    ask("/a%2fb", "?deny_status=403").await?.expect(403)?;
    ask("/a%2fb", "").await?.expect(400)?;
    ask("/api/analyze", "?deny_status=200").await?.expect(422)?;
    let stranger = testkit::Client::new(&world.api.url)?.get("/api/forward-auth?deny_status=403");
    stranger.header("X-Original-URI", "/").header("X-Original-Method", "GET").send().await?.expect(401)?;
    // Too many wrong credentials are a 429, which nginx would turn into its own 500.
    let forged = testkit::Client::new(&world.api.url)?.with_token("not.a.token");
    let guess = |query: &'static str| {
        let request = forged.get(&format!("/api/forward-auth{query}"));
        request.header("X-Original-URI", "/").header("X-Original-Method", "GET").send()
    };
    let mut denied = guess("?deny_status=403").await?;
    for _ in 0..70 {
        if denied.status != 401 {
            break;
        }
        denied = guess("?deny_status=403").await?;
    }
    assert_eq!(
        (denied.expect(403)?.code().as_str(), guess("").await?.status.as_u16()),
        ("rate_limited", 429)
    );
    Ok(())
}

#[tokio::test]
async fn one_pair_of_headers_says_what_is_asked_about() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("pairs")?;
    let ask = |headers: &[(&str, &str)]| {
        let request =
            headers.iter().fold(user.post("/api/forward-auth"), |r, (name, value)| r.header(name, value));
        request.send()
    };
    let (uri, method) = (("X-Forwarded-Uri", "/api/x"), ("X-Forwarded-Method", "GET"));
    let (original_uri, original_method) = (("X-Original-URI", "/api/x"), ("X-Original-Method", "GET"));
    let absolute = ("X-Original-URL", "https://api.example.com/api/x");
    for good in [
        &[uri, method][..],
        &[original_uri, original_method],
        &[uri, method, original_uri, original_method],
        &[absolute, original_method],
        &[absolute, original_uri, original_method, method, uri],
    ] {
        ask(good).await?.expect(204)?;
    }
    let elsewhere = ("X-Original-URL", "https://api.example.com/api/analyze");
    let bad: [&[(&str, &str)]; 15] = [
        &[],
        &[uri],
        &[method],
        &[uri, original_method],
        &[uri, method, original_uri],
        &[uri, method, ("X-Original-URI", "/api/analyze"), original_method],
        &[uri, method, original_uri, ("X-Original-Method", "POST")],
        &[uri, uri, method],
        &[uri, method, ("X-Forwarded-Method", "GET")],
        &[absolute],
        &[absolute, method],
        &[elsewhere, original_uri, original_method],
        &[elsewhere, original_method, uri, method],
        &[absolute, absolute, original_method],
        &[("X-Original-URL", "https://h?/api/x"), original_method],
    ];
    for headers in bad {
        let answer = ask(headers).await?;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (400, "malformed_header"),
            "{headers:?}"
        );
    }
    ask(&[uri, ("X-Forwarded-Method", "GE T")]).await?.expect(400)?;
    assert_eq!(world.summary("pairs").await?, (5, 0));
    Ok(())
}

#[tokio::test]
async fn envoy_asks_with_the_request_s_own_path_and_method() -> Result<()> {
    let world = World::start().await?;
    let user = world.user("behind-envoy")?;
    // What the client sends beside it means nothing here.
    let request = user.post("/api/forward-auth/envoy/api/analyze/7?deny_status=403");
    let request = request.header("X-Forwarded-Uri", "/other").header("X-Forwarded-Method", "OPTIONS");
    // Envoy takes 200 for a yes, and nothing else.
    request.send().await?.expect(200)?;
    user.get("/api/forward-auth/envoy//api//analyze").send().await?.expect(200)?;
    for root in ["/api/forward-auth/envoy/", "/api/forward-auth/envoy"] {
        user.get(root).send().await?.expect(200)?;
    }
    user.get("/api/forward-auth/envoy/a%2fb").send().await?.expect(400)?;
    for _ in 0..8 {
        user.put("/api/forward-auth/envoy/api/analyze").send().await?.expect(200)?;
    }
    user.get("/api/forward-auth/envoy/api/analyze?deny_status=403").send().await?.expect(429)?;
    assert_eq!(world.summary("behind-envoy").await?, (12, 10));
    let calls: Vec<(String, String)> = sqlx::query_as(
        "SELECT endpoint, method FROM api_usage WHERE counted ORDER BY log_seq, log_idx LIMIT 4",
    )
    .fetch_all(world.env.pool())
    .await?;
    let expected = [("/api/analyze/7", "POST"), ("/api/analyze", "GET"), ("/", "GET"), ("/", "GET")];
    let calls: Vec<(&str, &str)> = calls.iter().map(|(e, m)| (e.as_str(), m.as_str())).collect();
    assert_eq!(calls, expected);
    Ok(())
}

#[tokio::test]
async fn a_preflight_passes_only_where_it_is_said_and_with_nothing_in_it() -> Result<()> {
    const PREFLIGHT: [(&str, &str); 3] = [
        ("X-Forwarded-Method", "OPTIONS"),
        ("Origin", "https://app.example.com"),
        ("Access-Control-Request-Method", "POST"),
    ];
    let without = |left_out: &str| PREFLIGHT.iter().copied().filter(|(name, _)| *name != left_out).collect();
    let with = |name, value| PREFLIGHT.iter().copied().chain([(name, value)]).collect();
    // What may pass with the setting, and never without.
    let requests: [(Vec<(&str, &str)>, bool); 7] = [
        (PREFLIGHT.to_vec(), true),
        (with("Content-Length", "0"), true),
        (with("Authorization", "Bearer not.a.token"), false),
        (with("Authorization", "Basic YTpi"), false),
        (without("Origin"), false),
        (without("Access-Control-Request-Method"), false),
        (without("X-Forwarded-Method").into_iter().chain([("X-Forwarded-Method", "POST")]).collect(), false),
    ];
    for (settings, passes) in [(&[("FORWARD_AUTH_PREFLIGHT", "pass")][..], true), (&[], false)] {
        let world = World::with(settings).await?;
        let anonymous = world.anonymous()?;
        for (headers, may_pass) in &requests {
            let request = anonymous.get("/api/forward-auth").header("X-Forwarded-Uri", "/api/analyze");
            let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
            let answer = request.send().await?;
            let expected = if passes && *may_pass { 204 } else { 401 };
            assert_eq!(answer.status.as_u16(), expected, "{headers:?}: {}", answer.text());
        }
        let body = anonymous.post("/api/forward-auth").header("X-Forwarded-Uri", "/api/analyze");
        let body = PREFLIGHT.iter().fold(body, |request, (name, value)| request.header(name, value));
        body.body("text/plain", "x").send().await?.expect(401)?;
        // With a credential it is a call like any other.
        let user = world.user("options")?;
        let request = user.get("/api/forward-auth").header("X-Forwarded-Uri", "/api/analyze");
        let request = PREFLIGHT.iter().fold(request, |request, (name, value)| request.header(name, value));
        let counted = request.send().await?.expect(204)?;
        assert_eq!(counted.header("x-usage-used"), Some("1"));
        assert_eq!(world.summary("options").await?, (1, 1));
    }
    Ok(())
}

#[tokio::test]
async fn a_cookie_is_no_credential() -> Result<()> {
    let world = World::start().await?;
    let token = world.env.token("cookie-user", Role::User);
    let request = world
        .anonymous()?
        .get("/api/forward-auth")
        .header("Cookie", &format!("token={token}; session={token}"));
    let answer = request.header("X-Forwarded-Uri", "/").header("X-Forwarded-Method", "GET").send().await?;
    answer.expect(401)?;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM api_usage").fetch_one(world.env.pool()).await?;
    assert_eq!((rows, world.api.handle.log.state().await?.last_seq), (0, 0));
    Ok(())
}

/// Endpoint, method, status, address, user agent, category, counted, units.
type Row = (String, String, Option<i16>, Option<String>, Option<String>, String, bool, i32);

#[tokio::test]
async fn the_event_says_what_is_known_of_the_call() -> Result<()> {
    let world = World::with(&[("TRUSTED_PROXIES", "127.0.0.0/8")]).await?;
    let user = world.user("visible")?;
    let request = user.get("/api/forward-auth").header("X-Forwarded-Uri", "/api/auth/login?next=/");
    let request = request.header("X-Forwarded-Method", "POST").header("User-Agent", "curl/8.0");
    let answer = request.header("X-Forwarded-For", "10.0.0.1, 203.0.113.7").send().await?.expect(204)?;
    world.wait_until_projected().await?;
    let row: Row = sqlx::query_as(
        "SELECT endpoint, method, status_code, ip_address, user_agent, category, counted, units
         FROM api_usage WHERE id = $1::uuid",
    )
    .bind(answer.header("x-usage-call-id"))
    .fetch_one(world.env.pool())
    .await?;
    let expected = (
        "/api/auth/login".to_owned(),
        "POST".to_owned(),
        None,
        Some("203.0.113.7".to_owned()),
        Some("curl/8.0".to_owned()),
        "auth".to_owned(),
        true,
        1,
    );
    assert_eq!(row, expected);
    Ok(())
}
