//! Every route against every credential: the code's own table, by which README's is made.

use anyhow::{Context, Result};
use api::auth::{self, Access, ROUTES, markdown};
use credentials::{KeyRole, Scope};
use ledger::UserId;
use serde_json::json;
use store::identity::admins;
use testkit::{Client, Role, World};

use super::browser::{Browser, PASSWORD, signed_in, user_id};
use super::key;
use crate::answers::assert_problem;
use crate::auth::security::{ROWS, send};

/// Asks each route; 403 it must be if and only if the table says so.
async fn attack(world: &World, of: KeyRole, scopes: &[Scope]) -> Result<()> {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    let user = if of == KeyRole::User { "attacker" } else { "backend" };
    let made = key(world, user, &names, json!({"role": of.as_str()})).await?;
    for row in ROWS {
        let route = ROUTES.iter().find(|route| (route.method, route.path) == (row.method, row.path));
        let route = route.with_context(|| format!("{} {} is not in the table", row.method, row.path))?;
        let may = route.access == Access::Public
            || (route.admits_key(of) && route.scope.is_some_and(|scope| scopes.contains(&scope)));
        let answer = send(&made.client, row, row.request, row.body).await?;
        let what = format!("{of:?} {names:?} {} {}: {}", row.method, row.path, answer.text());
        assert_ne!(answer.status, 401, "{what}");
        if may {
            assert_ne!(answer.status, 403, "{what}");
        } else {
            assert_eq!(answer.status, 403, "{what}");
            assert_problem(&answer, 403, "forbidden");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say_and_no_more() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    for of in [KeyRole::User, KeyRole::Service] {
        attack(&world, of, &[]).await?;
        for scope in of.scopes().iter() {
            attack(&world, of, &[scope]).await?;
            // What was ended on the way is made anew.
            world.service()?.put("/api/users/victim").json(&json!({})).send().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_service_s_key_ends_users_and_no_admin() -> Result<()> {
    let world = World::start().await?;
    let made = key(&world, "backend", &["erase"], json!({"role": "service"})).await?;
    world.service()?.put("/api/users/victim").json(&json!({})).send().await?.expect(201)?;
    let erase = |user: &str| {
        let path = format!("/api/users/{user}/erase");
        let client = made.client.clone();
        async move { client.post(&path).send().await }
    };
    assert_problem(&erase("boss").await?, 403, "forbidden");
    let erased = erase("victim").await?;
    assert!([200, 202].contains(&erased.status.as_u16()), "{}", erased.text());
    world.service()?.post("/api/users/backend/erase").send().await?.expect(403)?;
    Ok(())
}

#[tokio::test]
async fn each_token_does_what_the_table_says() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    world.service()?.put("/api/users/victim").json(&json!({})).send().await?;
    let clients: [(Role, Client); 3] = [
        (Role::User, world.user("attacker")?),
        (Role::Service, world.service()?),
        (Role::Admin, world.client("boss", Role::Admin)?),
    ];
    for (role, client) in &clients {
        // Whoever ends itself is asked nothing after it.
        for row in ROWS.iter().filter(|row| row.path != "/api/users/{user}/erase") {
            let route = ROUTES.iter().find(|route| (route.method, route.path) == (row.method, row.path));
            let access = route.context("not in the table")?.access;
            assert_eq!(access, row.access, "{} {}", row.method, row.path);
            let may = match access {
                Access::Public | Access::Own => true,
                Access::OwnOrAdmin | Access::Eraser => *role != Role::Service,
                Access::OwnOnly => *role == Role::User,
                Access::Service => *role != Role::User,
                Access::SignedIn => false,
            };
            let answer = send(client, row, row.request, row.body).await?;
            assert_eq!(answer.status != 403, may, "{role:?} {} {}: {}", row.method, row.path, answer.text());
        }
    }
    Ok(())
}

/// A session of this role, with a second factor if it is an admin's.
async fn session(world: &World, role: Role) -> Result<Browser> {
    let email = format!("{role:?}@example.com");
    let mut browser = signed_in(world, &email).await?;
    if role == Role::Admin {
        let mut conn = world.env.pool().acquire().await?;
        admins::make_admin(&mut conn, UserId::new(user_id(&browser).await?.parse()?)).await?;
        browser.login(&email, PASSWORD).await?.expect(200)?;
        super::factors::enrol(world, &mut browser).await?;
    }
    Ok(browser)
}

#[tokio::test]
async fn each_session_and_page_s_token_does_what_the_table_says() -> Result<()> {
    let world = World::without_worker(&[("REGISTRATION", "open")]).await?;
    world.service()?.put("/api/users/victim").json(&json!({})).send().await?;
    // Whoever ends itself, or its session, is asked nothing after it.
    let rows =
        || ROWS.iter().filter(|row| !["/api/users/{user}/erase", "/api/auth/logout"].contains(&row.path));
    for role in [Role::User, Role::Admin] {
        let browser = session(&world, role).await?;
        for row in rows() {
            let route = ROUTES.iter().find(|route| (route.method, route.path) == (row.method, row.path));
            let route = route.context("not in the table")?;
            let mut request = browser.request(row.method.parse()?, row.request);
            if row.path == "/api/forward-auth" {
                request = request.header("x-forwarded-uri", "/api/x").header("x-forwarded-method", "GET");
            }
            if let Some(body) = row.body {
                request = request.body("application/json", body.as_bytes());
            }
            let answer = request.send().await?;
            let is_refused = [401, 403].contains(&answer.status.as_u16());
            let as_role = if role == Role::Admin { auth::Role::Admin } else { auth::Role::User };
            let what = format!("{role:?} {} {}: {} {}", row.method, row.path, answer.status, answer.text());
            // One has no password to set, nor a link: what is wrong with the body is told as 401, too.
            let is_wrong = route.access == Access::SignedIn && answer.status == 401;
            assert_eq!(is_refused && !is_wrong, !route.admits_session(as_role), "{what}");
        }
    }
    for scope in ["read", "upgrade", "tokens"] {
        let body = json!({"user": "attacker", "ttl_seconds": 600, "scopes": [scope]});
        let made = world.service()?.post("/api/auth/browser-tokens").json(&body).send().await?.expect(201)?;
        let page = world.anonymous()?.with_token(made.json()?["token"].as_str().context("token")?);
        for row in rows() {
            let route = ROUTES.iter().find(|route| (route.method, route.path) == (row.method, row.path));
            let route = route.context("not in the table")?;
            let may = route.access == Access::Public || route.page_scope() == Some(scope);
            let answer = send(&page, row, row.request, row.body).await?;
            assert_eq!(answer.status == 403, !may, "{scope} {} {}: {}", row.method, row.path, answer.text());
        }
    }
    Ok(())
}

/// `UPDATE=1` writes it.
#[test]
fn the_table_of_the_readme_is_the_code_s() -> Result<()> {
    const BEGIN: &str = "<!-- Made by `UPDATE=1 cargo test -p api --test api accounts::access`. -->\n";
    const END: &str = "<!-- End of the table. -->\n";
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(file)?;
    let (before, rest) = readme.split_once(BEGIN).context("no beginning")?;
    let (table, after) = rest.split_once(END).context("no end")?;
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, [before, BEGIN, &markdown(), END, after].concat())?;
    } else {
        assert_eq!(table, markdown(), "UPDATE=1 writes it anew");
    }
    Ok(())
}
