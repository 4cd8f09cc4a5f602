//! Links that are good once.

use anyhow::{Context, Result};
use api::accounts::{AccountLog, By, Link, People};
use api::http::site::Site;
use events::{Actor, ActorKind};
use ledger::{IdSource, UserId};
use serde_json::json;
use store::identity::people::{Identity, IdentityKind};
use testkit::World;

use super::browser::{Browser, PASSWORD, later, signed_in, user_id};
use super::key;
use crate::answers::assert_problem;

fn people(world: &World) -> People {
    let log = AccountLog::new(world.api.handle.writer.clone(), None);
    let site = Site::new("https://ledger.example.com".parse().ok());
    People::new(world.env.pool().clone(), log, site, IdSource::new(world.env.clock.clone()))
}

fn operator() -> By {
    By { actor: Actor::new(ActorKind::Operator, "a test"), personal: None }
}

/// The secret of a link of this kind.
fn token(link: &Link, kind: &str) -> Result<String> {
    let (page, secret) = link.url.split_once(&format!("#{kind}=")).with_context(|| link.url.clone())?;
    assert_eq!(page, "https://ledger.example.com/sign-in", "no request's Host is asked");
    Ok(secret.to_owned())
}

/// A link by which this user sets a password.
pub(crate) async fn reset_link(world: &World, user: &str) -> Result<String> {
    let user = UserId::new(user.parse()?);
    token(&people(world).reset_link(user, &operator()).await?, "reset")
}

fn email(text: &str, world: &World) -> Identity {
    let verified_at = Some(world.env.clock.now());
    Identity { kind: IdentityKind::Email, subject: text.to_owned(), label: text.to_owned(), verified_at }
}

#[tokio::test]
async fn the_administrator_s_first_link_is_good_once() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let link = people(&world).admin_link(None, &operator()).await?;
    let secret = token(&link, "link")?;
    let mut browser = Browser::new(&world)?;
    browser.post("/api/auth/link", &json!({"token": secret})).await?.expect(200)?;
    let session = browser.get("/api/auth/session").await?.expect(200)?.json()?;
    assert_eq!((&session["role"], &session["has_second_factor"]), (&json!("admin"), &json!(false)));
    browser.get("/api/keys?user_id=me").await?.expect(200)?;
    let again = Browser::new(&world)?.post("/api/auth/link", &json!({"token": secret})).await?;
    assert_problem(&again, 401, "unauthorized");
    // The second link is the same administrator's, and ends the one before it.
    let (one, two) = (
        people(&world).admin_link(None, &operator()).await?,
        people(&world).admin_link(None, &operator()).await?,
    );
    assert_eq!((one.user, two.user), (link.user, link.user));
    let mut browser = Browser::new(&world)?;
    browser.post("/api/auth/link", &json!({"token": token(&one, "link")?})).await?.expect(401)?;
    // A quarter of an hour later it is none.
    later(&world, 16);
    browser.post("/api/auth/link", &json!({"token": token(&two, "link")?})).await?.expect(401)?;
    let kept = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) FROM public.one_time_links WHERE encode(hash, 'escape') LIKE $1",
    );
    assert_eq!(kept.bind(format!("%{secret}%")).fetch_one(world.env.pool()).await?, 0);
    Ok(())
}

#[tokio::test]
async fn an_admin_without_a_second_factor_changes_nothing_of_others() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let secret = token(&people(&world).admin_link(None, &operator()).await?, "link")?;
    let mut admin = Browser::new(&world)?;
    admin.post("/api/auth/link", &json!({"token": secret})).await?.expect(200)?;
    admin.get("/api/users/me").await?.expect(200)?;
    for (method, path) in [
        ("PUT", "/api/users/x"),
        ("PUT", "/api/users/x/plan"),
        ("POST", "/api/keys"),
        ("POST", "/api/usage/reset"),
    ] {
        let answer = admin.request(method.parse()?, path).json(&json!({"name": "x"})).send().await?;
        assert_problem(&answer, 403, "second_factor_required");
    }
    Ok(())
}

#[tokio::test]
async fn a_link_that_is_used_by_many_at_once_signs_one_in() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let secret = token(&people(&world).admin_link(None, &operator()).await?, "link")?;
    let body = json!({"token": secret});
    let sign_in =
        |_| async { anyhow::Ok(Browser::new(&world)?.post("/api/auth/link", &body).await?.status.as_u16()) };
    let answers = futures_util::future::try_join_all((0..8).map(sign_in)).await?;
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 1, "{answers:?}");
    Ok(())
}

#[tokio::test]
async fn an_invitation_makes_one_account_of_its_address() -> Result<()> {
    let world = World::without_worker(&[("REGISTRATION", "invite")]).await?;
    let link = people(&world).invite(&email("ada@example.com", &world), &operator()).await?;
    let secret = token(&link, "invitation")?;
    let mut browser = Browser::new(&world)?;
    let body = |password: &str| json!({"invitation": secret, "password": password, "name": "Ada"});
    assert_problem(&browser.post("/api/auth/register", &body("short")).await?, 422, "validation_failed");
    let other = json!({"invitation": secret, "password": PASSWORD, "email": "mallory@example.com"});
    assert_problem(&browser.post("/api/auth/register", &other).await?, 422, "validation_failed");
    browser.post("/api/auth/register", &body(PASSWORD)).await?.expect(200)?;
    let me = browser.get("/api/users/me").await?.expect(200)?.json()?;
    assert_eq!(me["sign_in"]["email"], "ada@example.com");
    assert_eq!(me["sign_in"]["email_verified"], true);
    assert_problem(
        &Browser::new(&world)?.post("/api/auth/register", &body(PASSWORD)).await?,
        401,
        "unauthorized",
    );
    assert!(people(&world).invite(&email("ada@example.com", &world), &operator()).await.is_err());
    Ok(())
}

/// Whoever registers somebody else's address first gains nothing by it.
#[tokio::test]
async fn the_owner_of_an_address_takes_it_back_from_who_registered_it() -> Result<()> {
    let world = World::without_worker(&[("REGISTRATION", "open")]).await?;
    let mallory = signed_in(&world, "ada@example.com").await?;
    let user = user_id(&mallory).await?;
    let made = mallory.request("POST".parse()?, "/api/keys").json(&json!({"name": "x", "scopes": ["read"]}));
    let made = made.send().await?.expect(201)?.json()?;
    let planted = world.anonymous()?.with_token(made["secret"].as_str().context("secret")?);
    planted.get("/api/usage/stats").send().await?.expect(200)?;
    // No administrator by an address that nobody has shown to be theirs.
    assert!(people(&world).admin_link(Some(&email("ada@example.com", &world)), &operator()).await.is_err());
    let secret = reset_link(&world, &user).await?;
    let new = "ada's own horse battery staple";
    let mut ada = Browser::new(&world)?;
    ada.post("/api/auth/reset", &json!({"token": secret, "password": new})).await?.expect(200)?;
    ada.get("/api/auth/session").await?.expect(200)?;
    mallory.get("/api/auth/session").await?.expect(401)?;
    planted.get("/api/usage/stats").send().await?.expect(401)?;
    Browser::new(&world)?.login("ada@example.com", PASSWORD).await?.expect(401)?;
    // What the owner sets up stays when it sets another password by a link.
    let own = key(&world, &user, &["read"], json!({})).await?;
    let secret = reset_link(&world, &user).await?;
    ada.post("/api/auth/reset", &json!({"token": secret, "password": "yet another horse battery"}))
        .await?
        .expect(200)?;
    own.client.get("/api/usage/stats").send().await?.expect(200)?;
    Ok(())
}

/// Whoever makes links up is told to wait, and uses nobody's up.
#[tokio::test]
async fn links_that_are_made_up_are_bounded() -> Result<()> {
    let world =
        World::without_worker(&[("REGISTRATION", "open"), ("TRUSTED_PROXIES", "127.0.0.0/8")]).await?;
    let secret = token(&people(&world).admin_link(None, &operator()).await?, "link")?;
    let mut thief = Browser::new(&world)?.from("203.0.113.1");
    let mut answers = Vec::new();
    for number in 0..62 {
        let (path, body) = match number % 3 {
            0 => ("/api/auth/link", json!({"token": format!("{}{number:03}", "A".repeat(40))})),
            1 => (
                "/api/auth/reset",
                json!({"token": format!("{}{number:03}", "A".repeat(40)), "password": PASSWORD}),
            ),
            _ => ("/api/auth/register", json!({"invitation": "made up", "password": PASSWORD})),
        };
        answers.push(thief.post(path, &body).await?.status.as_u16());
    }
    assert!(answers.iter().all(|status| [401, 429].contains(status)), "{answers:?}");
    assert!((30..=60).contains(&answers.iter().filter(|status| **status == 401).count()), "{answers:?}");
    let mut admin = Browser::new(&world)?.from("192.0.2.1");
    admin.post("/api/auth/link", &json!({"token": secret})).await?.expect(200)?;
    Ok(())
}
