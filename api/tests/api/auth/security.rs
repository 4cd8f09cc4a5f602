//! Every route, against everybody who may not use it. The table is the list of what each route promises; a route that
//! is not in it, or a row without a route, fails the first test.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use api::auth::{Access, ROUTES};
use axum::http::Method;
use serde_json::{Value, json};
use testkit::{Answer, Client, JWT_SECRET, Role, Token, World};

use crate::answers::assert_problem;

/// One method of one path.
pub(crate) struct Row {
    pub(crate) method: &'static str,
    /// As the router knows it.
    pub(crate) path: &'static str,
    /// A request that is in order for whoever may make it.
    pub(crate) request: &'static str,
    pub(crate) body: Option<&'static str>,
    pub(crate) access: Access,
    /// The same for another user (`victim`), where a request can name one.
    of_another: Option<(&'static str, Option<&'static str>)>,
}

impl Row {
    const fn public(method: &'static str, path: &'static str) -> Self {
        Self { method, path, request: path, body: None, access: Access::Public, of_another: None }
    }

    const fn signed_in(method: &'static str, path: &'static str, body: Option<&'static str>) -> Self {
        Self { body, access: Access::SignedIn, ..Self::public(method, path) }
    }

    /// A read whose owner may be named by `?user_id=`.
    const fn read(path: &'static str, request: &'static str, of_another: &'static str) -> Self {
        Self {
            method: "GET",
            path,
            request,
            body: None,
            access: Access::Own,
            of_another: Some((of_another, None)),
        }
    }
}

/// An id that no token has.
const TOKEN: &str = "/api/tokens/0198e9a6-58a5-7cc3-9f0b-0123456789ab";
const TOKEN_AUDIT: &str = "/api/tokens/0198e9a6-58a5-7cc3-9f0b-0123456789ab/audit";

const KEY: &str = "/api/keys/0198e9a6-58a5-7cc3-9f0b-0123456789ab";
const KEY_OF_ANOTHER: &str = "/api/keys/0198e9a6-58a5-7cc3-9f0b-0123456789ab?user_id=victim";

/// An id that no second factor has.
const FACTOR: &str = "/api/auth/factors/0198e9a6-58a5-7cc3-9f0b-0123456789ab";
const FACTOR_CONFIRM: &str = "/api/auth/factors/0198e9a6-58a5-7cc3-9f0b-0123456789ab/confirm";
/// An id that no session has.
const SESSION: &str = "/api/users/me/sessions/0198e9a6-58a5-7cc3-9f0b-0123456789ab";

pub(crate) const ROWS: &[Row] = &[
    Row { body: Some("{}"), ..Row::public("POST", "/api/auth/register") },
    Row { body: Some("{}"), ..Row::public("POST", "/api/auth/login") },
    Row { body: Some("{}"), ..Row::public("POST", "/api/auth/link") },
    Row { body: Some("{}"), ..Row::public("POST", "/api/auth/reset") },
    Row::public("GET", "/api/auth/methods"),
    Row::public("GET", "/api/auth/github"),
    Row::public("GET", "/api/auth/github/callback"),
    Row::signed_in("POST", "/api/auth/github", None),
    Row::signed_in("DELETE", "/api/auth/github", None),
    Row::signed_in("GET", "/api/auth/session", None),
    Row::signed_in("GET", "/api/auth/factors", None),
    Row::signed_in("POST", "/api/auth/factors", Some("{}")),
    Row { request: FACTOR_CONFIRM, ..Row::signed_in("POST", "/api/auth/factors/{id}/confirm", Some("{}")) },
    Row::signed_in("POST", "/api/auth/factors/verify", Some("{}")),
    Row { request: FACTOR, ..Row::signed_in("DELETE", "/api/auth/factors/{id}", None) },
    Row::signed_in("POST", "/api/auth/recovery-codes", None),
    Row::signed_in("PATCH", "/api/users/me", Some("{}")),
    Row::signed_in("POST", "/api/users/me/password", Some("{}")),
    Row::signed_in("GET", "/api/users/me/sessions", None),
    Row { request: SESSION, ..Row::signed_in("DELETE", "/api/users/me/sessions/{id}", None) },
    Row {
        request: "/api/users/me/sessions?others=true",
        ..Row::signed_in("DELETE", "/api/users/me/sessions", None)
    },
    Row::signed_in("POST", "/api/auth/logout", None),
    Row { of_another: None, ..Row::read("/api/users/me", "/api/users/me", "") },
    Row {
        method: "POST",
        path: "/api/auth/browser-tokens",
        request: "/api/auth/browser-tokens",
        body: Some(r#"{"user": "victim", "ttl_seconds": 60, "scopes": ["read"]}"#),
        access: Access::Service,
        of_another: None,
    },
    Row {
        method: "POST",
        path: "/api/keys",
        request: "/api/keys",
        body: Some(r#"{"name": "x"}"#),
        access: Access::OwnOrAdmin,
        of_another: Some(("/api/keys?user_id=victim", Some(r#"{"name": "x"}"#))),
    },
    Row { access: Access::OwnOrAdmin, ..Row::read("/api/keys", "/api/keys", "/api/keys?user_id=victim") },
    Row { access: Access::OwnOrAdmin, ..Row::read("/api/keys/{id}", KEY, KEY_OF_ANOTHER) },
    Row { method: "DELETE", access: Access::OwnOrAdmin, ..Row::read("/api/keys/{id}", KEY, KEY_OF_ANOTHER) },
    Row {
        method: "PATCH",
        path: "/api/keys/{id}",
        request: KEY,
        body: Some("{}"),
        access: Access::OwnOrAdmin,
        of_another: Some((KEY_OF_ANOTHER, Some("{}"))),
    },
    Row {
        method: "POST",
        path: "/api/keys/{id}/rotate",
        request: "/api/keys/0198e9a6-58a5-7cc3-9f0b-0123456789ab/rotate",
        body: Some(r#"{"overlap_seconds": 0}"#),
        access: Access::OwnOrAdmin,
        of_another: Some((
            "/api/keys/0198e9a6-58a5-7cc3-9f0b-0123456789ab/rotate?user_id=victim",
            Some(r#"{"overlap_seconds": 0}"#),
        )),
    },
    Row {
        method: "POST",
        path: "/api/tokens",
        request: "/api/tokens",
        body: Some(r#"{"token_type": "github", "token": "ghp_abcdefghijklmnopqrstuvwxyz0123456789"}"#),
        access: Access::OwnOnly,
        of_another: None,
    },
    Row {
        access: Access::OwnOrAdmin,
        ..Row::read("/api/tokens", "/api/tokens", "/api/tokens?user_id=victim")
    },
    Row {
        access: Access::OwnOrAdmin,
        ..Row::read(
            "/api/tokens/{id}",
            TOKEN,
            "/api/tokens/0198e9a6-58a5-7cc3-9f0b-0123456789ab?user_id=victim",
        )
    },
    Row {
        method: "DELETE",
        access: Access::OwnOrAdmin,
        ..Row::read(
            "/api/tokens/{id}",
            TOKEN,
            "/api/tokens/0198e9a6-58a5-7cc3-9f0b-0123456789ab?user_id=victim",
        )
    },
    Row {
        method: "POST",
        path: "/api/tokens/{id}/test",
        request: "/api/tokens/0198e9a6-58a5-7cc3-9f0b-0123456789ab/test",
        body: None,
        access: Access::OwnOnly,
        of_another: None,
    },
    Row {
        method: "POST",
        path: "/api/tokens/test",
        request: "/api/tokens/test",
        body: Some(r#"{"token_type": "github", "token": ""}"#),
        access: Access::OwnOnly,
        of_another: None,
    },
    Row {
        access: Access::OwnOrAdmin,
        ..Row::read("/api/tokens/audit", "/api/tokens/audit", "/api/tokens/audit?user_id=victim")
    },
    Row {
        access: Access::OwnOrAdmin,
        ..Row::read(
            "/api/tokens/{id}/audit",
            TOKEN_AUDIT,
            "/api/tokens/0198e9a6-58a5-7cc3-9f0b-0123456789ab/audit?user_id=victim",
        )
    },
    Row {
        method: "POST",
        path: "/api/users/{user}/erase",
        request: "/api/users/victim/erase",
        body: None,
        access: Access::Eraser,
        of_another: Some(("/api/users/victim/erase", None)),
    },
    Row {
        access: Access::OwnOrAdmin,
        ..Row::read("/api/users/{user}/export", "/api/users/me/export", "/api/users/victim/export")
    },
    Row {
        access: Access::OwnOrAdmin,
        ..Row::read(
            "/api/users/me/security-log",
            "/api/users/me/security-log",
            "/api/users/me/security-log?user_id=victim",
        )
    },
    Row::public("GET", "/healthz"),
    Row::public("GET", "/readyz"),
    Row::public("GET", "/api/usage/plans"),
    Row::read("/api/usage/stats", "/api/usage/stats", "/api/usage/stats?user_id=victim"),
    Row::read("/api/usage/history", "/api/usage/history", "/api/usage/history?user_id=victim"),
    Row::read("/api/usage/calls", "/api/usage/calls", "/api/usage/calls?user_id=victim"),
    Row::read("/api/usage/statements", "/api/usage/statements", "/api/usage/statements?user_id=victim"),
    Row::read(
        "/api/usage/statements/{month}",
        "/api/usage/statements/2026-01",
        "/api/usage/statements/2026-01?user_id=victim",
    ),
    Row {
        method: "POST",
        path: "/api/usage/upgrade",
        request: "/api/usage/upgrade",
        body: Some(r#"{"plan": "pro"}"#),
        access: Access::Own,
        of_another: Some(("/api/usage/upgrade?user_id=victim", Some(r#"{"plan": "pro"}"#))),
    },
    Row {
        method: "POST",
        path: "/api/usage/reset",
        request: "/api/usage/reset",
        body: Some(r#"{"reason": "test"}"#),
        access: Access::OwnOrAdmin,
        of_another: Some(("/api/usage/reset", Some(r#"{"user_id": "victim", "reason": "test"}"#))),
    },
    Row {
        method: "PUT",
        path: "/api/users/{user}",
        request: "/api/users/victim",
        body: Some("{}"),
        access: Access::Service,
        of_another: None,
    },
    Row {
        method: "PUT",
        path: "/api/users/{user}/plan",
        request: "/api/users/victim/plan",
        body: Some(r#"{"plan": "pro", "effective": "now"}"#),
        access: Access::Service,
        of_another: None,
    },
    // Another's event is refused item by item, which the tests of ingest show.
    Row {
        method: "POST",
        path: "/api/usage/events",
        request: "/api/usage/events",
        body: Some(r#"{"id": "1", "data": {"endpoint": "/x"}}"#),
        access: Access::Own,
        of_another: None,
    },
    Row {
        method: "POST",
        path: "/api/v1/events",
        request: "/api/v1/events",
        body: Some(r#"{"specversion": "1.0", "id": "1", "source": "a", "type": "t", "subject": "attacker"}"#),
        access: Access::Own,
        of_another: None,
    },
    Row {
        method: "POST",
        path: "/api/usage/check",
        request: "/api/usage/check",
        body: Some(r#"{"endpoint": "/api/analyze"}"#),
        access: Access::Own,
        of_another: Some(("/api/usage/check", Some(r#"{"user_id": "victim", "endpoint": "/api/analyze"}"#))),
    },
    Row {
        method: "POST",
        path: "/api/usage/calls/{call_id}/outcome",
        request: "/api/usage/calls/0198e9a6-58a5-7cc3-9f0b-0123456789ab/outcome",
        body: Some(r#"{"status_code": 200}"#),
        access: Access::Service,
        of_another: None,
    },
    // These two name nobody but their token's user.
    Row {
        method: "GET",
        path: "/api/forward-auth",
        request: "/api/forward-auth",
        body: None,
        access: Access::Own,
        of_another: None,
    },
    Row {
        method: "GET",
        path: "/api/forward-auth/envoy/{path}",
        request: "/api/forward-auth/envoy/api/x",
        body: None,
        access: Access::Own,
        of_another: None,
    },
];

/// Paths that are documented under another form, or served by no handler of ours.
const OTHER_PATHS: &[&str] = &[
    "/api/forward-auth/envoy",
    "/api/forward-auth/envoy/",
    "/docs",
    "/docs/",
    "/docs/{*rest}",
    "/openapi.json",
    "/sign-in",
    "/account",
    "/assets/{file}",
];

#[tokio::test]
async fn the_table_names_every_route_and_no_other() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let listed: BTreeSet<(String, String)> =
        ROWS.iter().map(|row| (row.method.to_owned(), row.path.to_owned())).collect();
    assert_eq!(listed.len(), ROWS.len(), "a row stands twice");
    let document = serde_json::to_value(api::router::document())?;
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        for method in ["get", "put", "post", "delete", "options", "head", "patch", "trace"] {
            if item.get(method).is_some() {
                documented.insert((method.to_uppercase(), path.clone()));
            }
        }
    }
    assert_eq!(documented, listed, "left: documented routes, right: rows of the table");
    let told: BTreeSet<(String, String)> =
        ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    assert_eq!(told, listed, "left: the code's own table, right: rows of this one");
    // A route could be there without documentation. The router has no list of its routes, but shows them for debugging.
    let known = ROWS.iter().map(|row| row.path).chain(OTHER_PATHS.iter().copied());
    let known: BTreeSet<String> = known.map(|path| path.replace("{*", "{")).collect();
    let found: BTreeSet<String> =
        paths(&world.api.shown).into_iter().map(|path| path.replace("{*", "{")).collect();
    assert_eq!(found, known, "left: the router's paths, right: the table's");
    Ok(())
}

#[tokio::test]
async fn nobody_without_a_valid_token() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let mut bodies = BTreeSet::new();
    for row in ROWS.iter().filter(|row| row.access != Access::Public) {
        for (what, token) in super::credentials::invalid_tokens(&world)? {
            let client = match token {
                Some(token) => world.anonymous()?.with_token(token),
                None => world.anonymous()?,
            };
            let answer = send(&client, row, row.request, row.body).await?;
            // One address fails so often here that it is told to wait; what matters is that it is refused.
            let throttled = answer.status == 429;
            assert!(
                throttled || answer.status == 401,
                "{what}: {} {}: {}",
                row.method,
                row.path,
                answer.text()
            );
            if answer.status == 401 {
                assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"usage-ledger\""));
                let mut body = assert_problem(&answer, 401, "unauthorized");
                for own in ["request_id", "instance"] {
                    body[own] = Value::Null;
                }
                bodies.insert(body.to_string());
            }
        }
    }
    assert_eq!(bodies.len(), 1, "every cause gives the same answer: {bodies:?}");
    Ok(())
}

#[tokio::test]
async fn nobody_beyond_their_role() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    world.service()?.put("/api/users/victim").json(&json!({})).send().await?.expect(201)?;
    let (user, service) = (world.client("attacker", Role::User)?, world.service()?);
    let admin = world.client("boss", Role::Admin)?;
    // A host's own token may claim what it likes.
    let claimed = Token::new(&world.env.clock, "attacker", Role::Admin).secret(JWT_SECRET);
    let pretender = world.anonymous()?.with_token(claimed.mint());
    for row in ROWS {
        let refused: &[&Client] = match row.access {
            Access::Public | Access::Own => &[],
            Access::OwnOrAdmin | Access::Eraser => &[&service],
            Access::OwnOnly => &[&service, &admin],
            Access::Service => &[&user, &pretender],
            Access::SignedIn => &[&user, &service, &admin, &pretender],
        };
        for client in refused {
            let answer = send(client, row, row.request, row.body).await?;
            assert_eq!(answer.status, 403, "{} {}: {}", row.method, row.path, answer.text());
            assert_problem(&answer, 403, "forbidden");
        }
    }
    Ok(())
}

#[tokio::test]
async fn nobody_sees_or_changes_another_s() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    world.service()?.put("/api/users/victim").json(&json!({})).send().await?.expect(201)?;
    for (number, row) in ROWS.iter().enumerate() {
        let Some((request, body)) = row.of_another else { continue };
        // Each is asked by another one, for of some routes there are not so many a second.
        let user = world.client(&format!("attacker-{number}"), Role::User)?;
        let nobody = request.replace("victim", "nobody");
        let of_nobody =
            send(&user, row, &nobody, body.map(|body| body.replace("victim", "nobody")).as_deref()).await?;
        let answer = send(&user, row, request, body).await?;
        let problem = assert_problem(&answer, 404, "not_found");
        let same = assert_problem(&of_nobody, 404, "not_found");
        assert_eq!(problem["detail"], same["detail"], "{request}: whether somebody exists must not show");
    }
    Ok(())
}

#[tokio::test]
async fn the_thirty_first_failed_credential_of_a_minute_is_told_to_wait() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let wrong = world.anonymous()?.with_token("not-a-token");
    let mut throttled = None;
    // A minute may end between two requests; 61 in a row cannot fall into two minutes with 30 each.
    for attempt in 1..=61 {
        let answer = wrong.get("/api/usage/stats").send().await?;
        if answer.status == 429 {
            throttled = Some((attempt, answer));
            break;
        }
        assert_eq!(answer.status, 401);
    }
    let (attempt, answer) = throttled.context("never told to wait")?;
    assert!(attempt > 30, "after {attempt}");
    let problem = assert_problem(&answer, 429, "rate_limited");
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity");
    assert!(answer.header("retry-after").is_some());
    world.client("somebody", Role::User)?.get("/api/usage/stats").send().await?.expect(200)?;
    world.anonymous()?.get("/api/usage/stats").send().await?.expect(401)?;
    Ok(())
}

pub(crate) async fn send(client: &Client, row: &Row, request: &str, body: Option<&str>) -> Result<Answer> {
    let mut sending = client.request(Method::from_bytes(row.method.as_bytes())?, request);
    if row.path == "/api/forward-auth" {
        sending = sending.header("x-forwarded-uri", "/api/x").header("x-forwarded-method", "GET");
    }
    if let Some(body) = body {
        sending = sending.body("application/json", body.as_bytes());
    }
    sending.send().await
}

/// The paths in a router's Debug form, which maps `RouteId(n)` to each of them.
fn paths(shown: &str) -> BTreeSet<&str> {
    let quoted = shown.split("RouteId(").filter_map(|part| {
        let (_id, rest) = part.split_once("): \"")?;
        rest.split('"').next()
    });
    // The fallback (404) stands there as two paths.
    quoted.filter(|path| *path != "/" && *path != "/{*__private__axum_fallback}").collect()
}
