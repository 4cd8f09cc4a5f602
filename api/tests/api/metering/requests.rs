//! A request that a trusted proxy names and asks about several times counts once.

use anyhow::{Context, Result};
use chrono::TimeDelta;
use serde_json::json;
use testkit::{Answer, Client, Env, PATIENCE, World, wait_until};

const SETTINGS: [(&str, &str); 2] =
    [("TRUSTED_PROXIES", "127.0.0.0/8"), ("FORWARD_AUTH_ID_HEADER", "X-Ledger-Request-Id")];

async fn ask(client: &Client, method: &str, uri: &str, id: &str) -> Result<Answer> {
    let request = client.get("/api/forward-auth").header("X-Original-URI", uri);
    request.header("X-Original-Method", method).header("X-Ledger-Request-Id", id).send().await
}

/// All that an answer says of its call.
fn of_the_call(answer: &Answer) -> Result<Vec<(String, String)>> {
    let of_the_answer = ["x-request-id", "date"];
    let own = answer.headers.iter().filter(|(name, _)| !of_the_answer.contains(&name.as_str()));
    own.map(|(name, value)| Ok((name.to_string(), value.to_str()?.to_owned()))).collect()
}

#[tokio::test]
async fn a_repetition_has_the_same_answer_and_counts_once() -> Result<()> {
    let world = World::with(&SETTINGS).await?;
    let user = world.user("repeating")?;
    let first = ask(&user, "GET", "/api/analyze?a=1", "id-1").await?.expect(204)?;
    for _ in 0..10 {
        let again = ask(&user, "GET", "/api/analyze?a=1", "id-1").await?.expect(204)?;
        assert_eq!(of_the_call(&again)?, of_the_call(&first)?);
    }
    for name in ["x-usage-call-id", "ledger-seq", "ratelimit", "x-usage-remaining", "x-user-id"] {
        assert!(first.header(name).is_some(), "{name}");
    }
    assert_eq!(world.summary("repeating").await?, (1, 1));
    // The eleventh repetition is a call of its own, which may be repeated in its turn.
    let second = ask(&user, "GET", "/api/analyze?a=1", "id-1").await?.expect(204)?;
    assert_eq!(second.header("x-usage-used"), Some("2"));
    let again = ask(&user, "GET", "/api/analyze?a=1", "id-1").await?.expect(204)?;
    assert_eq!(of_the_call(&again)?, of_the_call(&second)?);
    assert_eq!(world.summary("repeating").await?, (2, 2));
    assert_eq!(world.rows("repeating", "analyze").await?, (2, 2));
    Ok(())
}

#[tokio::test]
async fn another_user_method_uri_or_id_is_another_call() -> Result<()> {
    let world = World::with(&SETTINGS).await?;
    let (ada, bob) = (world.user("ada")?, world.user("bob")?);
    ask(&ada, "GET", "/api/x?a", "id").await?.expect(204)?;
    for (client, method, uri, id) in [
        (&bob, "GET", "/api/x?a", "id"),
        (&ada, "POST", "/api/x?a", "id"),
        (&ada, "GET", "/api/x?b", "id"),
        (&ada, "GET", "/api/X?a", "id"),
        (&ada, "GET", "/api/x?a", "ID"),
    ] {
        for _ in 0..2 {
            ask(client, method, uri, id).await?.expect(204)?;
        }
    }
    assert_eq!((world.summary("ada").await?, world.summary("bob").await?), ((5, 0), (1, 0)));
    Ok(())
}

#[tokio::test]
async fn the_call_that_took_the_last_unit_is_not_refused_when_it_is_asked_about_again() -> Result<()> {
    let world = World::with(&SETTINGS).await?;
    let user = world.user("last-unit")?;
    for number in 0..10 {
        ask(&user, "GET", "/api/analyze", &format!("id-{number}")).await?.expect(204)?;
    }
    let last = ask(&user, "GET", "/api/analyze", "id-9").await?.expect(204)?;
    assert_eq!(last.header("x-usage-remaining"), Some("0"));
    // What was refused is decided again, and is no second refusal.
    for _ in 0..3 {
        let refused = ask(&user, "GET", "/api/analyze", "id-10").await?.expect(429)?;
        assert!(refused.header("x-usage-call-id").is_none());
    }
    ask(&user, "GET", "/api/analyze", "id-11").await?.expect(429)?;
    // A larger plan shows at once, also to a request that was refused.
    let pro = json!({"plan": "pro", "effective": "now"});
    world.service()?.put("/api/users/last-unit/plan").json(&pro).send().await?.expect(200)?;
    for _ in 0..2 {
        let passed = ask(&user, "GET", "/api/analyze", "id-10").await?.expect(204)?;
        assert_eq!(passed.header("x-usage-used"), Some("11"));
    }
    assert_eq!(world.summary("last-unit").await?, (11, 11));
    world.api.stop().await?;
    let refused = || async {
        let query = "SELECT COALESCE(sum(count), 0)::bigint FROM limit_rejections";
        sqlx::query_scalar::<_, i64>(query).fetch_one(world.env.pool()).await.unwrap_or(0)
    };
    wait_until(PATIENCE, || async { refused().await > 0 }).await;
    assert_eq!(refused().await, 2);
    Ok(())
}

#[tokio::test]
async fn those_who_ask_at_once_hear_of_one_call() -> Result<()> {
    let world = World::with(&SETTINGS).await?;
    let user = world.user("at-once")?;
    let asked = (0..11).map(|_| ask(&user, "GET", "/api/analyze", "id"));
    let answers = futures_util::future::try_join_all(asked).await?;
    let first = answers.first().context("an answer")?;
    for answer in &answers {
        assert_eq!(of_the_call(&answer.clone().expect(204)?)?, of_the_call(first)?);
    }
    assert_eq!(world.summary("at-once").await?, (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_minute_later_the_same_id_is_another_call() -> Result<()> {
    let world = World::with(&SETTINGS).await?;
    let user = world.user("later")?;
    let start = world.env.clock.now();
    for (after_s, used) in [(0, 1), (59, 1), (61, 2), (120, 2), (122, 3)] {
        world.env.clock.set(start + TimeDelta::seconds(after_s));
        let user = user.with_token(world.env.token("later", testkit::Role::User));
        let answer = ask(&user, "GET", "/api/analyze", "id").await?.expect(204)?;
        assert_eq!(answer.header("x-usage-used"), Some(used.to_string().as_str()), "{after_s} s");
    }
    assert_eq!(world.summary("later").await?, (3, 3));
    Ok(())
}

#[tokio::test]
async fn what_was_recorded_before_a_restart_counts_once_after_it() -> Result<()> {
    let world = World::with(&SETTINGS).await?;
    let user = world.user("restarted")?;
    for number in 0..9 {
        ask(&user, "GET", "/api/analyze", &format!("id-{number}")).await?.expect(204)?;
    }
    world.wait_until_projected().await?;
    let world = world.restart_api(&SETTINGS).await?;
    world.wait_until_open().await;
    let user = world.user("restarted")?;
    // Units are left: another process cannot know the call, but the projection does.
    ask(&user, "GET", "/api/analyze", "id-8").await?.expect(204)?;
    assert_eq!(world.summary("restarted").await?, (9, 9));
    // The unit that its repetition took is there again, as soon as the projection is read.
    wait_until(PATIENCE, || async {
        ask(&user, "GET", "/api/analyze", "id-9").await.is_ok_and(|answer| answer.status == 204)
    })
    .await;
    let last = ask(&user, "GET", "/api/analyze", "id-9").await?.expect(204)?;
    assert_eq!(last.header("x-usage-used"), Some("10"));
    world.wait_until_projected().await?;
    let world = world.restart_api(&SETTINGS).await?;
    world.wait_until_open().await;
    let user = world.user("restarted")?;
    let again = ask(&user, "GET", "/api/analyze", "id-9").await?.expect(204)?;
    for name in ["x-usage-call-id", "ledger-seq", "x-usage-used", "x-usage-remaining"] {
        assert_eq!(again.header(name), last.header(name), "{name}");
    }
    ask(&user, "GET", "/api/analyze", "id-10").await?.expect(429)?;
    assert_eq!(world.summary("restarted").await?, (10, 10));
    Ok(())
}

/// The process that takes over may have been there for long: it began to decide just now.
#[tokio::test]
async fn what_another_process_recorded_a_moment_ago_counts_once() -> Result<()> {
    let world = World::with(&SETTINGS).await?;
    let user = world.user("taken-over")?;
    for number in 0..10 {
        ask(&user, "GET", "/api/analyze", &format!("id-{number}")).await?.expect(204)?;
    }
    world.wait_until_projected().await?;
    let now = world.env.clock.now();
    world.env.clock.set(now - TimeDelta::minutes(5));
    let world = world.restart_api(&SETTINGS).await?;
    world.wait_until_open().await;
    world.env.clock.set(now + TimeDelta::seconds(1));
    let user = world.user("taken-over")?;
    for number in 0..10 {
        ask(&user, "GET", "/api/analyze", &format!("id-{number}")).await?.expect(204)?;
    }
    ask(&user, "GET", "/api/analyze", "id-10").await?.expect(429)?;
    assert_eq!(world.summary("taken-over").await?, (10, 10));
    Ok(())
}

/// A page of many parts: all are asked about before any of them is asked about again.
#[tokio::test]
async fn hundreds_of_requests_in_flight_are_each_remembered() -> Result<()> {
    const REQUESTS: usize = 200;
    let world = World::with(&SETTINGS).await?;
    let user = world.user("many")?;
    ask(&user, "GET", "/api/x", "first").await?.expect(204)?;
    let service = world.service()?;
    service
        .put("/api/users/many/plan")
        .json(&json!({"plan": "pro", "effective": "now"}))
        .send()
        .await?
        .expect(200)?;
    let before = json!({"user_id": "many", "endpoint": "/api/x", "units": 499 - REQUESTS, "record": true});
    service.post("/api/usage/check").json(&before).send().await?.expect(200)?;
    let mut first = Vec::new();
    for round in 0..2 {
        let ids: Vec<_> = (0..REQUESTS).map(|number| format!("id-{number}")).collect();
        let asked = ids.iter().map(|id| ask(&user, "GET", "/api/x", id));
        let answers = futures_util::future::try_join_all(asked).await?;
        let mut calls = Vec::new();
        for answer in answers {
            let answer = answer.expect(204)?;
            calls.push(answer.header("x-usage-call-id").context("a call")?.to_owned());
        }
        if round == 0 {
            first = calls;
        } else {
            assert_eq!(calls, first);
        }
    }
    ask(&user, "GET", "/api/x", "another").await?.expect(429)?;
    assert_eq!(world.summary("many").await?, (500, 0));
    Ok(())
}

/// In shadow mode a call that is found again says what it said.
#[tokio::test]
async fn in_shadow_mode_a_call_found_again_would_still_be_blocked() -> Result<()> {
    let settings = [SETTINGS[0], SETTINGS[1], ("ENFORCEMENT", "shadow")];
    let world = World::with(&settings).await?;
    let user = world.user("shadowed")?;
    for number in 0..11 {
        let answer = ask(&user, "GET", "/api/analyze", &format!("id-{number}")).await?.expect(204)?;
        assert_eq!(answer.header("x-usage-would-block"), (number == 10).then_some("analyze"));
    }
    world.wait_until_projected().await?;
    let world = world.restart_api(&settings).await?;
    world.wait_until_open().await;
    let user = world.user("shadowed")?;
    let again = ask(&user, "GET", "/api/analyze", "id-10").await?.expect(204)?;
    assert_eq!(again.header("x-usage-would-block"), Some("analyze"));
    assert_eq!(again.header("x-usage-used"), Some("11"));
    assert_eq!(world.summary("shadowed").await?, (11, 11));
    Ok(())
}

#[tokio::test]
async fn only_trusted_proxies_name_requests() -> Result<()> {
    let elsewhere = [("TRUSTED_PROXIES", "203.0.113.0/24"), SETTINGS[1]];
    for (settings, name) in
        [(&elsewhere[..], "elsewhere"), (&SETTINGS[1..], "nobody"), (&SETTINGS[..1], "no-header")]
    {
        let world = World::with(settings).await?;
        let user = world.user(name)?;
        for id in ["id", "id", "", "not an id"] {
            ask(&user, "GET", "/api/x", id).await?.expect(204)?;
        }
        assert_eq!(world.summary(name).await?, (4, 0), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn an_id_that_cannot_be_used_is_told() -> Result<()> {
    let world = World::with(&SETTINGS).await?;
    let user = world.user("wrong-ids")?;
    for id in ["", "two words", "x\ty", &"x".repeat(256)] {
        let answer = ask(&user, "GET", "/api/x", id).await?.expect(400)?;
        assert_eq!(answer.code(), "malformed_header", "{id:?}");
    }
    let twice =
        user.get("/api/forward-auth").header("X-Original-URI", "/api/x").header("X-Original-Method", "GET");
    let twice = twice.header("X-Ledger-Request-Id", "theirs").header("X-Ledger-Request-Id", "ours");
    assert_eq!(twice.send().await?.expect(400)?.code(), "malformed_header");
    // A request without an id is a call, as before.
    for _ in 0..2 {
        world.call(&user, "/api/x").await?.expect(204)?;
    }
    assert_eq!(world.summary("wrong-ids").await?, (2, 0));
    Ok(())
}

/// The id may be personal, and the query is.
#[tokio::test]
async fn nothing_of_the_id_is_kept() -> Result<()> {
    let world = World::with(&SETTINGS).await?;
    let user = world.user("private")?;
    ask(&user, "GET", "/api/x?mail=ada@example.com", "person-ada-7731").await?.expect(204)?;
    world.wait_until_projected().await?;
    let log = &world.api.handle.log;
    let mut kept = String::new();
    for seq in 1..=log.state().await?.last_seq {
        let frame = log.frame_at(seq).await?.context("a frame")?;
        kept += &String::from_utf8_lossy(&frame.body);
    }
    let tables = ["api_usage", "request_claims", "event_claims"];
    for table in tables {
        let query = format!("SELECT COALESCE(string_agg(t::text, ' '), '') FROM {table} t");
        let text: String = sqlx::query_scalar(&query).fetch_one(world.env.pool()).await?;
        kept += &text;
    }
    assert!(kept.contains("\"request\":\""), "the hash is there");
    for secret in ["person-ada-7731", "ada@example.com"] {
        assert!(!kept.contains(secret), "{secret}");
    }
    Ok(())
}

/// A first one that fails is nobody's answer.
#[tokio::test]
async fn what_failed_is_not_remembered() -> Result<()> {
    let env = Env::start().await?;
    let mut world = World::in_env(env, &SETTINGS).await?;
    let user = world.user("unlucky")?;
    world.start_worker();
    ask(&user, "GET", "/api/analyze", "id-0").await?.expect(204)?;
    world.wait_until_projected().await?;
    let world = world.restart_api(&SETTINGS).await?;
    world.wait_until_open().await;
    // Without the user's data key nothing is sealed, and a call with a user agent fails.
    sqlx::query("ALTER TABLE public.user_data_keys RENAME TO away").execute(world.env.pool()).await?;
    let user = world.user("unlucky")?;
    let with_agent = |id: &'static str| {
        let request = user.get("/api/forward-auth").header("X-Original-URI", "/api/analyze");
        let request = request.header("X-Original-Method", "GET").header("X-Ledger-Request-Id", id);
        request.header("User-Agent", "curl/8").send()
    };
    let failed = with_agent("id-1").await?;
    assert!(failed.status.is_server_error(), "{}", failed.status);
    sqlx::query("ALTER TABLE public.away RENAME TO user_data_keys").execute(world.env.pool()).await?;
    let passed = with_agent("id-1").await?.expect(204)?;
    assert_eq!(of_the_call(&with_agent("id-1").await?.expect(204)?)?, of_the_call(&passed)?);
    assert_eq!(world.summary("unlucky").await?, (2, 2));
    Ok(())
}
