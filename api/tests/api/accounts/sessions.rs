//! Sessions: who may use one, and when it is over.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::http::Method;
use ledger::UserId;
use serde_json::json;
use store::identity::sessions;
use store::identity::users::{self, AccountStatus, UserChange};
use testkit::{Client, PATIENCE, Role, World, wait_until};

use super::browser::{Browser, PASSWORD, later, signed_in, user_id};
use crate::answers::assert_problem;

/// Time within which every instance knows, and what a busy machine takes.
const SOON: Duration = Duration::from_secs(3);
const OPEN: (&str, &str) = ("REGISTRATION", "open");

/// What changes something needs the CSRF token, and a page of this site; a bearer token needs neither.
#[tokio::test]
async fn a_page_of_another_site_changes_nothing() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let ada = signed_in(&world, "ada@example.com").await?;
    let mallory = signed_in(&world, "mallory@example.com").await?;
    let cookie = ada.cookie.clone().context("a cookie")?;
    for (site, token, is_taken) in [
        (Some("same-origin"), Some(ada.csrf.as_str()), true),
        (None, Some(ada.csrf.as_str()), true),
        (Some("none"), Some(ada.csrf.as_str()), true),
        (Some("same-origin"), None, false),
        (None, None, false),
        (Some("same-origin"), Some(""), false),
        (Some("same-origin"), Some(mallory.csrf.as_str()), false),
        (Some("same-site"), Some(ada.csrf.as_str()), false),
        (Some("cross-site"), Some(ada.csrf.as_str()), false),
        (Some("x"), Some(ada.csrf.as_str()), false),
    ] {
        for (method, path) in [(Method::PATCH, "/api/users/me"), (Method::POST, "/api/keys")] {
            let mut request = ada.bare(method, path).header("cookie", &cookie);
            if let Some(site) = site {
                request = request.header("sec-fetch-site", site);
            }
            if let Some(token) = token {
                request = request.header("x-csrf-token", token);
            }
            let answer = request.json(&json!({"name": "x"})).send().await?;
            if is_taken {
                assert!(answer.status.is_success(), "{site:?} {token:?} {path}: {}", answer.text());
            } else {
                assert_problem(&answer, 403, "cross_site");
            }
        }
    }
    // Somebody else's page signs nobody in.
    let body = json!({"email": "mallory@example.com", "password": PASSWORD});
    let answer = ada
        .bare(Method::POST, "/api/auth/login")
        .header("sec-fetch-site", "cross-site")
        .json(&body)
        .send()
        .await?;
    assert_problem(&answer, 403, "cross_site");
    let key = json!({"name": "x"});
    world.user("bearer")?.post("/api/keys").json(&key).send().await?.expect(201)?;
    Ok(())
}

/// Programs' routes, and proxies that pass their client's cookies on, take no session.
#[tokio::test]
async fn proxies_and_reports_take_no_cookie() -> Result<()> {
    let world = World::without_worker(&[OPEN, ("USER_INGEST", "true")]).await?;
    let ada = signed_in(&world, "ada@example.com").await?;
    let asked = ada
        .request(Method::GET, "/api/forward-auth")
        .header("x-forwarded-uri", "/api/x")
        .header("x-forwarded-method", "GET");
    assert_problem(&asked.send().await?, 401, "unauthorized");
    let check = ada.request(Method::POST, "/api/usage/check").json(&json!({"endpoint": "/x"}));
    assert_problem(&check.send().await?, 401, "unauthorized");
    let report =
        ada.request(Method::POST, "/api/usage/events").json(&json!({"id": "1", "data": {"endpoint": "/x"}}));
    assert_problem(&report.send().await?, 401, "unauthorized");
    // With a credential of its own, the cookie stands in nobody's way.
    let token = world.user("ada")?;
    let cookie = ada.cookie.clone().context("a cookie")?;
    let asked = token.get("/api/forward-auth").header("cookie", &cookie).header("x-forwarded-uri", "/api/x");
    asked.header("x-forwarded-method", "GET").send().await?.expect(204)?;
    let me = token.get("/api/users/me").header("cookie", &cookie).send().await?.expect(200)?.json()?;
    assert_ne!(me["user_id"], user_id(&ada).await?, "the header goes before the cookie");
    Ok(())
}

/// A session that was there before the sign-in is none after it, and nobody chooses a session's secret.
#[tokio::test]
async fn nobody_goes_on_with_a_session_from_before() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let mut browser = signed_in(&world, "mallory@example.com").await?;
    let planted = browser.clone();
    signed_in(&world, "ada@example.com").await?;
    browser.login("ada@example.com", PASSWORD).await?.expect(200)?;
    assert_ne!(browser.cookie, planted.cookie);
    planted.get("/api/auth/session").await?.expect(401)?;
    let made_up = format!("__Host-ul_session={}", "A".repeat(43));
    let mut chosen = Browser::new(&world)?;
    chosen.cookie = Some(made_up.clone());
    chosen.get("/api/auth/session").await?.expect(401)?;
    chosen.login("ada@example.com", PASSWORD).await?.expect(200)?;
    assert_ne!(chosen.cookie.as_ref(), Some(&made_up));
    Ok(())
}

/// Another instance ends sessions in the tables, and tells this one nothing itself.
#[tokio::test]
async fn what_another_instance_ends_is_over_here_within_a_second() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    for end in ["one", "all", "suspended", "unannounced"] {
        let ada = signed_in(&world, &format!("{end}@example.com")).await?;
        let session = ada.get("/api/auth/session").await?.expect(200)?.json()?;
        let id = |name: &str| session[name].as_str().unwrap_or_default().parse::<uuid::Uuid>();
        let (user, session) = (UserId::new(id("user_id")?), id("session_id")?);
        let mut tx = world.env.pool().begin().await?;
        match end {
            "one" => assert!(sessions::end(&mut tx, user, session).await?),
            "all" => assert_eq!(sessions::end_all(&mut tx, user, None).await?, 1),
            "suspended" => {
                let change = UserChange { status: Some(AccountStatus::Suspended), ..UserChange::default() };
                users::update(&mut tx, user, &change, world.env.clock.now()).await?;
            }
            _ => {
                sqlx::query("DELETE FROM public.sessions").execute(&mut *tx).await?;
                sqlx::query("UPDATE public.credential_changes SET number = number + 1")
                    .execute(&mut *tx)
                    .await?;
            }
        }
        tx.commit().await?;
        let ended = Instant::now();
        wait_until(PATIENCE, || async { ada.get("/api/auth/session").await.is_ok_and(|a| a.status != 200) })
            .await;
        assert!(ended.elapsed() < SOON, "{end}: after {:?}", ended.elapsed());
    }
    Ok(())
}

/// What ends a session ends it at once where that is done.
#[tokio::test]
async fn a_session_that_has_ended_is_over() -> Result<()> {
    let world = World::with(&[OPEN]).await?;
    for end in ["logout", "one", "all", "suspended", "erased", "password", "reset"] {
        let email = format!("{end}@example.com");
        let ada = signed_in(&world, &email).await?;
        let user = user_id(&ada).await?;
        let mut second = Browser::new(&world)?;
        second.login(&email, PASSWORD).await?.expect(200)?;
        let listed = second.get("/api/users/me/sessions").await?.expect(200)?.json()?;
        let first = listed["sessions"][1]["session_id"].as_str().context("the first")?.to_owned();
        let admin = world.client("boss", Role::Admin)?;
        match end {
            "logout" => drop(ada.clone().post("/api/auth/logout", &json!({})).await?.expect(204)?),
            "one" => drop(second.delete(&format!("/api/users/me/sessions/{first}")).await?.expect(204)?),
            "all" => drop(second.delete("/api/users/me/sessions?others=true").await?.expect(204)?),
            "suspended" => {
                let body = json!({"status": "suspended"});
                admin.put(&format!("/api/users/{user}")).json(&body).send().await?.expect(200)?;
            }
            "erased" => {
                let erased = admin.post(&format!("/api/users/{user}/erase")).send().await?;
                assert!([200, 202].contains(&erased.status.as_u16()), "{}", erased.text());
            }
            "password" => {
                let body =
                    json!({"current_password": PASSWORD, "password": "another horse battery staple 8"});
                second.post("/api/users/me/password", &body).await?.expect(200)?;
            }
            _ => {
                let token = super::links::reset_link(&world, &user).await?;
                let body = json!({"token": token, "password": "another horse battery staple 8"});
                Browser::new(&world)?.post("/api/auth/reset", &body).await?.expect(200)?;
            }
        }
        let status = ada.get("/api/auth/session").await?.status.as_u16();
        assert!(status == 401 || (end == "suspended" && status == 403), "{end}: {status}");
        if end == "suspended" {
            let body = json!({"status": "active"});
            admin.put(&format!("/api/users/{user}")).json(&body).send().await?.expect(200)?;
            wait_until(PATIENCE, || async {
                ada.get("/api/auth/session").await.is_ok_and(|a| a.status == 401)
            })
            .await;
        }
    }
    Ok(())
}

/// One that is not used ends, and one that is used ends too.
#[tokio::test]
async fn a_session_ends_by_itself() -> Result<()> {
    let settings = [OPEN, ("SESSION_IDLE", "30m"), ("SESSION_MAX", "2h")];
    let world = World::without_worker(&settings).await?;
    let ada = signed_in(&world, "ada@example.com").await?;
    let (idle, used) = (ada.clone(), signed_in(&world, "used@example.com").await?);
    for _ in 0..5 {
        later(&world, 20);
        used.get("/api/auth/session").await?.expect(200)?;
    }
    idle.get("/api/auth/session").await?.expect(401)?;
    later(&world, 21);
    used.get("/api/auth/session").await?.expect(401)?;
    Ok(())
}

/// Where clients are to use https, what came to a proxy in the clear is refused, whatever it is.
#[tokio::test]
async fn credentials_in_the_clear_are_refused() -> Result<()> {
    let settings = [OPEN, ("PUBLIC_URL", "https://ledger.example.com"), ("TRUSTED_PROXIES", "127.0.0.0/8")];
    let world = World::without_worker(&settings).await?;
    let ada = signed_in(&world, "ada@example.com").await?;
    let token = world.user("bearer")?;
    for (proto, is_taken) in [("https", true), ("http", false), ("HTTP", false), ("https, http", false)] {
        let login = json!({"email": "ada@example.com", "password": PASSWORD});
        for request in [
            ada.request(Method::GET, "/api/users/me"),
            ada.bare(Method::POST, "/api/auth/login").json(&login),
            token.get("/api/users/me"),
        ] {
            let answer = request.header("x-forwarded-proto", proto).send().await?;
            if is_taken {
                answer.expect(200)?;
            } else {
                assert_problem(&answer, 403, "https_required");
            }
        }
        world
            .anonymous()?
            .get("/api/usage/plans")
            .header("x-forwarded-proto", proto)
            .send()
            .await?
            .expect(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_page_s_token_does_what_its_scopes_say() -> Result<()> {
    let world = World::without_worker(&[("AUTO_PROVISION", "true"), ("SELF_UPGRADE", "true")]).await?;
    let service = world.service()?;
    let token = |scopes: serde_json::Value, ttl: u64| {
        let body = json!({"user": "ada", "ttl_seconds": ttl, "scopes": scopes});
        service.post("/api/auth/browser-tokens").json(&body).send()
    };
    for (scopes, ttl) in
        [(json!(["ingest"]), 60), (json!(["plans"]), 60), (json!(["read"]), 3_601), (json!(["read"]), 0)]
    {
        assert_problem(&token(scopes, ttl).await?, 422, "validation_failed");
    }
    let page = |made: serde_json::Value| -> Result<Client> {
        Ok(world.anonymous()?.with_token(made["token"].as_str().context("token")?))
    };
    let read = page(token(json!(["read"]), 60).await?.expect(201)?.json()?)?;
    read.get("/api/usage/stats").send().await?.expect(200)?;
    for (method, path) in [
        (Method::POST, "/api/usage/upgrade"),
        (Method::GET, "/api/tokens"),
        (Method::GET, "/api/keys"),
        (Method::POST, "/api/usage/check"),
        (Method::GET, "/api/users/me/sessions"),
    ] {
        let answer =
            read.request(method, path).json(&json!({"plan": "pro", "endpoint": "/x"})).send().await?;
        assert_problem(&answer, 403, "forbidden");
    }
    read.get("/api/usage/stats?user_id=other").send().await?.expect(404)?;
    let upgrade = page(token(json!(["upgrade"]), 60).await?.expect(201)?.json()?)?;
    upgrade.post("/api/usage/upgrade").json(&json!({"plan": "pro"})).send().await?.expect(202)?;
    upgrade.get("/api/usage/stats").send().await?.expect(403)?;
    assert_problem(
        &upgrade.put("/api/users/x/plan").json(&json!({"plan": "pro"})).send().await?,
        403,
        "forbidden",
    );
    later(&world, 3);
    read.get("/api/usage/stats").send().await?.expect(401)?;
    Ok(())
}
