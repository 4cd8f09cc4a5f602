//! People register and sign in, and nobody learns from it who has an account.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::http::Method;
use serde_json::json;
use testkit::World;

use super::browser::{Browser, PASSWORD, signed_in, user_id};
use crate::answers::assert_problem;

const OPEN: (&str, &str) = ("REGISTRATION", "open");

#[tokio::test]
async fn somebody_registers_signs_in_and_out() -> Result<()> {
    let world = World::with(&[OPEN]).await?;
    let mut browser = signed_in(&world, "Ada@Example.com").await?;
    let me = browser.get("/api/users/me").await?.expect(200)?.json()?;
    assert_eq!(me["role"], "user");
    assert_eq!(me["sign_in"]["email"], "Ada@Example.com");
    assert_eq!(me["sign_in"]["email_verified"], false);
    assert_eq!(me["sign_in"]["has_password"], true);
    browser.get("/api/usage/stats").await?.expect(200)?;
    let changed =
        browser.request(Method::PATCH, "/api/users/me").json(&json!({"name": "Ada"})).send().await?;
    assert_eq!(changed.expect(200)?.json()?["name"], "Ada");
    let sessions = browser.get("/api/users/me/sessions").await?.expect(200)?.json()?;
    assert_eq!(sessions["sessions"].as_array().context("sessions")?.len(), 1);
    assert_eq!(sessions["sessions"][0]["is_current"], true);
    let export = browser.get("/api/users/me/export").await?.expect(200)?;
    let held = export.json()?;
    assert_eq!(held["identities"][0]["label"], "Ada@Example.com");
    for part in ["passwords", "sessions", "known_addresses"] {
        assert_eq!(held[part].as_array().context(part)?.len(), 1, "{part}");
    }
    assert!(!export.text().contains("argon2"), "no secrets");
    let out = browser.post("/api/auth/logout", &json!({})).await?.expect(204)?;
    assert!(out.header("set-cookie").context("set-cookie")?.contains("Max-Age=0"));
    assert_eq!(browser.cookie, None);
    // The same address in another case is the same account.
    browser.login("ada@EXAMPLE.com", PASSWORD).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn the_cookie_is_what_it_says() -> Result<()> {
    for (url, name, secure) in [
        (None, "__Host-ul_session", true),
        (Some("https://ledger.example.com"), "__Host-ul_session", true),
        (Some("http://127.0.0.1:8080"), "ul_session", false),
    ] {
        let mut settings = vec![OPEN];
        settings.extend(url.map(|url| ("PUBLIC_URL", url)));
        let world = World::without_worker(&settings).await?;
        let mut browser = Browser::new(&world)?;
        let body = json!({"email": "a@example.com", "password": PASSWORD});
        let made = browser.post("/api/auth/register", &body).await?.expect(202)?;
        assert_eq!(
            made.header("strict-transport-security").is_some(),
            url.is_some_and(|url| url.starts_with("https")),
        );
        let answer = browser.login("a@example.com", PASSWORD).await?.expect(200)?;
        let cookie = answer.header("set-cookie").context("set-cookie")?;
        assert!(cookie.starts_with(&format!("{name}=")), "{cookie}");
        for attribute in ["Path=/", "HttpOnly", "SameSite=Lax"] {
            assert!(cookie.contains(attribute), "{cookie}");
        }
        assert_eq!(cookie.contains("; Secure"), secure, "{cookie}");
        assert!(!cookie.contains("Domain"), "{cookie}");
    }
    Ok(())
}

#[tokio::test]
async fn nobody_registers_where_that_is_closed() -> Result<()> {
    for setting in [None, Some("closed"), Some("invite")] {
        let settings: Vec<_> = setting.map(|value| ("REGISTRATION", value)).into_iter().collect();
        let world = World::without_worker(&settings).await?;
        let mut browser = Browser::new(&world)?;
        let body = json!({"email": "a@example.com", "password": PASSWORD});
        assert_problem(&browser.post("/api/auth/register", &body).await?, 403, "forbidden");
        let users = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM public.identities");
        assert_eq!(users.fetch_one(world.env.pool()).await?, 0);
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_address_or_a_weak_password_is_told() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let mut browser = Browser::new(&world)?;
    for (email, password, pointer) in [
        (json!("no address"), json!(PASSWORD), "/email"),
        (json!("a@b\r\nc.example"), json!(PASSWORD), "/email"),
        (json!(7), json!(PASSWORD), "/email"),
        (json!("a@example.com"), json!("short"), "/password"),
        (json!("a@example.com"), json!("password123"), "/password"),
        (json!("ada.lovelace@example.com"), json!("ada.lovelace1"), "/password"),
        (json!("a@example.com"), json!("x".repeat(2_000)), "/password"),
    ] {
        let answer =
            browser.post("/api/auth/register", &json!({"email": email, "password": password})).await?;
        let problem = assert_problem(&answer, 422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{}", answer.text());
        if let Some(secret) = password.as_str() {
            assert!(!answer.text().contains(secret), "{}", answer.text());
        }
    }
    Ok(())
}

/// Answers of a registration and of a sign-in, and their times, are the same for those who have an account and others.
#[tokio::test]
async fn nothing_tells_whether_an_address_has_an_account() -> Result<()> {
    let world = World::without_worker(&[OPEN, ("TRUSTED_PROXIES", "127.0.0.0/8")]).await?;
    let ada = signed_in(&world, "ada@example.com").await?;
    let owner = user_id(&ada).await?;
    let mut bodies = std::collections::BTreeSet::new();
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..12 {
        for (known, email) in [(0, "ada@example.com".to_owned()), (1, format!("nobody{round}@example.com"))] {
            let mut stranger = Browser::new(&world)?.from(&format!("203.0.113.{}", round * 2 + known));
            let began = Instant::now();
            let answer = stranger.login(&email, "not the password of ada").await?;
            times[known].push(began.elapsed());
            let mut problem = assert_problem(&answer, 401, "unauthorized");
            problem["request_id"] = json!(null);
            bodies.insert(problem.to_string());
            let body = json!({"email": email, "password": "another horse battery staple 8"});
            let began = Instant::now();
            let made = stranger.post("/api/auth/register", &body).await?.expect(202)?;
            bodies.insert(made.text());
            let slots = began.elapsed().as_millis() / 250;
            assert!(began.elapsed() >= Duration::from_millis(250), "answered in slots: {slots}");
        }
    }
    assert_eq!(bodies.len(), 2, "one refusal and one empty answer: {bodies:?}");
    let [known, unknown] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    let ratio = known.as_secs_f64() / unknown.as_secs_f64();
    assert!((0.5..2.0).contains(&ratio), "the middle of each: {known:?} and {unknown:?}");
    // Nobody has taken the account over.
    let mut thief = Browser::new(&world)?.from("198.51.100.7");
    thief.login("ada@example.com", "another horse battery staple 8").await?.expect(401)?;
    assert_eq!(user_id(&ada).await?, owner);
    Ok(())
}

#[tokio::test]
async fn of_two_registrations_at_once_one_makes_the_account() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let register = |number: usize| {
        let world = &world;
        async move {
            let mut browser = Browser::new(world)?;
            let password = format!("{number} horses, batteries and staples");
            let body = json!({"email": "ada@example.com", "password": password});
            browser.post("/api/auth/register", &body).await?.expect(202)?;
            let answer = browser.login("ada@example.com", &password).await?;
            anyhow::Ok(answer.status.as_u16())
        }
    };
    let answers = futures_util::future::try_join_all((0..6).map(register)).await?;
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 1, "{answers:?}");
    let rows = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) FROM public.users u JOIN public.identities i USING (user_id)",
    );
    assert_eq!(rows.fetch_one(world.env.pool()).await?, 1);
    Ok(())
}

#[tokio::test]
async fn guesses_are_bounded_and_the_owner_gets_in() -> Result<()> {
    let world = World::without_worker(&[OPEN, ("TRUSTED_PROXIES", "127.0.0.0/8")]).await?;
    let mut ada = Browser::new(&world)?.from("192.0.2.1");
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    ada.post("/api/auth/register", &body).await?.expect(202)?;
    ada.login("ada@example.com", PASSWORD).await?.expect(200)?;
    // From one address: five, then each waits.
    let mut thief = Browser::new(&world)?.from("203.0.113.1");
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(thief.login("ada@example.com", "a guess like many others").await?.status.as_u16());
    }
    assert_eq!(answers[..5], [401; 5]);
    assert!(answers[5..].contains(&429), "{answers:?}");
    // From many: a hundred an hour.
    let guess = |number: u32| {
        let world = &world;
        async move {
            let from = format!("198.18.{}.{}", number / 200, number % 200);
            let mut thief = Browser::new(world)?.from(&from);
            anyhow::Ok(thief.login("ada@example.com", "a guess like many others").await?.status.as_u16())
        }
    };
    let mut looked_at = 0;
    for round in 0..6 {
        let guesses = (round * 20..round * 20 + 20).map(guess);
        let answers = futures_util::future::try_join_all(guesses).await?;
        looked_at += answers.iter().filter(|status| **status == 401).count();
    }
    assert!((80..=100).contains(&looked_at), "{looked_at} guesses were looked at");
    let mut elsewhere = Browser::new(&world)?.from("203.0.113.99");
    let refused = elsewhere.login("ada@example.com", PASSWORD).await?;
    assert_problem(&refused, 429, "rate_limited");
    assert!(refused.header("retry-after").is_some());
    // The owner, where it has signed in before.
    ada.login("ada@example.com", PASSWORD).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_password_is_changed_by_who_knows_it() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let mut ada = signed_in(&world, "ada@example.com").await?;
    let mut other = Browser::new(&world)?;
    other.login("ada@example.com", PASSWORD).await?.expect(200)?;
    let new = "another horse battery staple 8";
    let wrong = json!({"current_password": "not this one at all", "password": new});
    assert_problem(&ada.post("/api/users/me/password", &wrong).await?, 401, "unauthorized");
    assert_problem(
        &ada.post("/api/users/me/password", &json!({"password": new})).await?,
        401,
        "unauthorized",
    );
    let before = ada.clone();
    let right = json!({"current_password": PASSWORD, "password": new});
    ada.post("/api/users/me/password", &right).await?.expect(200)?;
    assert_ne!(ada.cookie, before.cookie, "the session has another secret");
    ada.get("/api/auth/session").await?.expect(200)?;
    before.get("/api/auth/session").await?.expect(401)?;
    other.get("/api/auth/session").await?.expect(401)?;
    other.login("ada@example.com", PASSWORD).await?.expect(401)?;
    other.login("ada@example.com", new).await?.expect(200)?;
    Ok(())
}

/// A hash that was made at another cost is made anew when its password is at hand.
#[tokio::test]
async fn a_hash_follows_its_parameters() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    signed_in(&world, "ada@example.com").await?;
    assert!(hash(&world).await?.contains("m=8192,t=1,p=1"));
    let world = world.restart_api(&[OPEN, ("PASSWORD_HASH", "m=9000,t=1,p=1")]).await?;
    let mut browser = Browser::new(&world)?;
    browser.login("ada@example.com", PASSWORD).await?.expect(200)?;
    assert!(hash(&world).await?.contains("m=9000,t=1,p=1"));
    browser.login("ada@example.com", PASSWORD).await?.expect(200)?;
    Ok(())
}

async fn hash(world: &World) -> Result<String> {
    let hash = sqlx::query_scalar::<_, String>("SELECT hash FROM public.passwords");
    Ok(hash.fetch_one(world.env.pool()).await?)
}
