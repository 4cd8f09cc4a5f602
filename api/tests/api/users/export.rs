//! All that is held about a user, without secrets.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{PATIENCE, Role, World, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::tokens::{GITHUB, store, token};

/// More than a few pages.
const CALLS: usize = 5_000;

#[tokio::test]
async fn an_export_holds_everything_of_one_user_and_no_secret() -> Result<()> {
    let world = World::start().await?;
    let (alice, bob) = (world.user("alice")?, world.user("bob")?);
    store(&alice, &token("github", GITHUB)).await?.expect(201)?;
    world.call(&alice, "/api/analyze").await?.expect(204)?;
    world.call(&bob, "/api/of-bob").await?.expect(204)?;
    alice.post("/api/usage/upgrade").json(&json!({"plan": "pro"})).send().await?.expect(200)?;
    let boss = world.client("boss", Role::Admin)?;
    boss.put("/api/users/alice").json(&json!({"email": "alice@example.org"})).send().await?.expect(200)?;
    world.wait_until_projected().await?;
    let answer = alice.get("/api/users/me/export").send().await?.expect(200)?;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let export = answer.json()?;
    assert_eq!(export["user"]["external_id"], "alice");
    assert_eq!(export["user"]["email"], "alice@example.org");
    assert_eq!(export["user"]["used_by_admin"], false);
    assert_eq!(export["plan_changes"][0]["plan_name"], "pro");
    assert_eq!(export["months"][0]["analyze_calls"], 1);
    assert_eq!(export["tokens"][0]["masked"], "ghp_…wxyz");
    assert_eq!(export["token_audit"][0]["ip_address"], "127.0.0.1");
    let calls = export["calls"].as_array().unwrap();
    assert!(calls.iter().any(|call| call["endpoint"] == "/api/analyze"));
    assert!(export["as_of"]["position"].is_string());
    for secret in [GITHUB, "encrypted", "sealed", "of-bob", "external_id_hash"] {
        assert!(!answer.text().contains(secret), "{secret}");
    }
    let same = boss.get("/api/users/alice/export").send().await?.expect(200)?.json()?;
    assert_eq!(same["user"], export["user"]);
    bob.get("/api/users/alice/export").send().await?.expect(404)?;
    boss.get("/api/users/nobody/export").send().await?.expect(404)?;
    Ok(())
}

/// Calls with long names, so that no socket's buffer holds an export of all of them.
async fn report(world: &World, subject: &str) -> Result<()> {
    let service = world.service()?;
    let filling = "x".repeat(900);
    for batch in 0..CALLS / 500 {
        let events: Vec<_> = (0..500)
            .map(|n| {
                let endpoint = format!("/{batch}/{n}/{filling}");
                json!({"id": format!("{batch}-{n}"), "subject": subject, "data": {"endpoint": endpoint}})
            })
            .collect();
        service.post("/api/usage/events").json(&events).send().await?.expect(202)?;
    }
    world.wait_until_projected().await
}

/// Each call exactly once, beside those of our own routes.
fn whole(export: &Value) -> Result<()> {
    let calls = export["calls"].as_array().context("no calls")?.iter();
    let endpoints: Vec<&str> = calls.filter_map(|call| call["endpoint"].as_str()).collect();
    let reported: Vec<_> = endpoints.into_iter().filter(|endpoint| !endpoint.starts_with("/api/")).collect();
    let different: BTreeSet<&str> = reported.iter().copied().collect();
    ensure!((reported.len(), different.len()) == (CALLS, CALLS), "{} of {}", different.len(), reported.len());
    Ok(())
}

/// An export that is asked for and read as slowly as a test likes.
struct SlowReader(TcpStream);

impl SlowReader {
    /// Reads no more than the beginning.
    async fn start(world: &World, caller: &str, role: Role, user: &str) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4_096)?;
        let address = world.api.url.trim_start_matches("http://").parse()?;
        let mut stream = socket.connect(address).await?;
        let token = world.env.token(caller, role);
        let head = format!(
            "GET /api/users/{user}/export HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut begin = [0; 15];
        timeout(PATIENCE, stream.read_exact(&mut begin)).await??;
        ensure!(begin == *b"HTTP/1.1 200 OK", "{}", String::from_utf8_lossy(&begin));
        Ok(Self(stream))
    }

    /// Reads the rest: the body, if it is whole.
    async fn rest(mut self) -> Result<Option<Value>> {
        let mut bytes = Vec::new();
        // A connection that is cut has an end like any other here.
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await?;
        let text = String::from_utf8(bytes)?;
        let (_, mut chunks) = text.split_once("\r\n\r\n").context("no body")?;
        let mut body = String::new();
        while let Some((length, rest)) = chunks.split_once("\r\n") {
            let length = usize::from_str_radix(length, 16)?;
            if length == 0 {
                return Ok(Some(serde_json::from_str(&body)?));
            }
            let Some(chunk) = rest.get(..length) else { break };
            body.push_str(chunk);
            chunks = rest.get(length + 2..).unwrap_or_default();
        }
        Ok(None)
    }
}

#[tokio::test]
async fn stalled_readers_hold_nothing_and_get_one_position() -> Result<()> {
    let world = World::with(&[("DATABASE_CONNECTIONS", "2")]).await?;
    report(&world, "alice").await?;
    whole(&world.user("alice")?.get("/api/users/me/export").send().await?.expect(200)?.json()?)?;
    let mut readers = Vec::new();
    for admin in ["one", "two", "three", "four"] {
        readers.push(SlowReader::start(&world, admin, Role::Admin, "alice").await?);
    }
    assert_eq!(world.api.handle.state.users.exports_under_way(), 4);
    // A second one of a caller, and everybody else's requests.
    let again = world.client("one", Role::Admin)?.get("/api/users/alice/export").send().await?.expect(429)?;
    assert_eq!(again.code(), "rate_limited");
    let bob = world.user("bob")?;
    for _ in 0..5 {
        bob.get("/api/usage/stats").send().await?.expect(200)?;
    }
    let open = "SELECT count(*)::text FROM pg_stat_activity
                WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    wait_until(PATIENCE, || async { world.text(open).await.is_ok_and(|open| open == "0") }).await;
    // What comes later is not in it, wherever the reader is.
    let late = json!({"id": "late", "subject": "alice", "data": {"endpoint": "/late"}});
    world.service()?.post("/api/usage/events").json(&late).send().await?.expect(202)?;
    world.wait_until_projected().await?;
    for reader in readers {
        whole(&reader.rest().await?.context("it broke off")?)?;
    }
    wait_until(PATIENCE, || async { world.api.handle.state.users.exports_under_way() == 0 }).await;
    Ok(())
}

#[tokio::test]
async fn an_export_ends_with_its_reader_or_its_user() -> Result<()> {
    let world = World::start().await?;
    report(&world, "alice").await?;
    let users = &world.api.handle.state.users;
    let reader = SlowReader::start(&world, "alice", Role::User, "me").await?;
    assert_eq!(users.exports_under_way(), 1);
    drop(reader);
    wait_until(PATIENCE, || async { users.exports_under_way() == 0 }).await;

    let reader = SlowReader::start(&world, "boss", Role::Admin, "alice").await?;
    world.user("alice")?.post("/api/users/me/erase").send().await?.expect(200)?;
    assert_eq!(reader.rest().await?, None, "somebody who is no more is exported");
    wait_until(PATIENCE, || async { users.exports_under_way() == 0 }).await;
    let boss = world.client("boss", Role::Admin)?;
    let user = world.text("SELECT user_id::text FROM public.users WHERE status = 'erased'").await?;
    let export = boss.get(&format!("/api/users/{user}/export")).send().await?.expect(200)?.json()?;
    assert_eq!((&export["calls"], &export["user"]["status"]), (&json!([]), &"erased".into()));
    Ok(())
}
