//! What is sent wrongly is refused by the contract's status and a problem that names the field, and leaves no trace.

use anyhow::Result;
use serde_json::json;
use std::time::Duration;
use testkit::{Client, World};

use crate::answers::{assert_problem, named};

/// Bodies for `PUT /api/users/{user}` that are JSON and yet wrong: the body, and what the answer must point at.
const WRONG: &[(&str, &str)] = &[
    (r#"{"unknown": 1}"#, "/unknown"),
    (r#"{"email": 7}"#, "/email"),
    (r#"{"email": ""}"#, "/email"),
    (r#"{"name": "a\u0000b"}"#, "/name"),
    (r#"{"name": "invoice\u202egpj.exe"}"#, "/name"),
    (r#"{"name": "a\nb"}"#, "/name"),
    (r#"{"external_id": "me"}"#, "/external_id"),
    (r#"{"external_id": "0198e9a6-58a5-7cc3-9f0b-0123456789ab"}"#, "/external_id"),
    (r#"{"external_id": {"a": []}}"#, "/external_id"),
    (r#"{"status": "deleted"}"#, "/status"),
    (r#"{"status": 1e999}"#, "/status"),
    (r#"{"status": 7}"#, "/status"),
    (r#"{"name": 123456789012345678901234567890}"#, "/name"),
    (r#"{"status": null, "status": null}"#, "/status"),
    (r#"{"a/b~c": 1}"#, "/a~1b~0c"),
    ("[]", ""),
    ("\"text\"", ""),
    ("17", ""),
];

/// Method, path, a good body, one with a NUL in its text, and its refusal: status, code, and the pointer, or none where
/// a path has a refusal of its own.
type Refused =
    (&'static str, &'static str, &'static str, &'static str, (u16, &'static str, Option<&'static str>));

/// The other endpoints that take a JSON object.
const OTHERS: &[Refused] = &[
    (
        "POST",
        "/api/usage/check",
        r#"{"endpoint": "/x"}"#,
        r#"{"endpoint": "/x\u0000"}"#,
        (400, "malformed_uri", None),
    ),
    (
        "POST",
        "/api/usage/calls/0198e9a6-58a5-7cc3-9f0b-0123456789ab/outcome",
        r#"{"status_code": 200}"#,
        r#"{"status_code": "200\u0000"}"#,
        (422, "validation_failed", Some("/status_code")),
    ),
    (
        "POST",
        "/api/usage/reset",
        r#"{"reason": "x"}"#,
        r#"{"reason": "a\u0000b"}"#,
        (422, "validation_failed", Some("/reason")),
    ),
    (
        "POST",
        "/api/usage/upgrade",
        r#"{"plan": "pro"}"#,
        r#"{"plan": "pro\u0000"}"#,
        (422, "validation_failed", Some("/plan")),
    ),
    (
        "PUT",
        "/api/users/victim/plan",
        r#"{"plan": "pro"}"#,
        r#"{"plan": "pro", "source_event_id": "a\u0000b"}"#,
        (422, "validation_failed", Some("/source_event_id")),
    ),
];

/// Ids, names and reasons of blanks alone: method, path, body.
const BLANK: &[(&str, &str, &str)] = &[
    ("PUT", "/api/users/victim", r#"{"external_id": " "}"#),
    ("PUT", "/api/users/victim", r#"{"email": " "}"#),
    ("PUT", "/api/users/victim", "{\"name\": \"\u{2003}\u{200b}\"}"),
    ("PUT", "/api/users/%20", "{}"),
    ("PUT", "/api/users/victim/plan", r#"{"plan": " "}"#),
    ("PUT", "/api/users/victim/plan", r#"{"plan": "pro", "source_event_id": " "}"#),
    ("PUT", "/api/users/victim/plan", r#"{"plan": "pro", "reason": "  "}"#),
    ("POST", "/api/usage/upgrade", r#"{"plan": " "}"#),
    ("POST", "/api/usage/reset", r#"{"reason": " "}"#),
    ("POST", "/api/usage/events", r#"{"id": " ", "subject": "victim", "data": {"endpoint": "/"}}"#),
    (
        "POST",
        "/api/usage/events",
        r#"{"id": "1", "source": " ", "subject": "victim", "data": {"endpoint": "/"}}"#,
    ),
    ("POST", "/api/usage/events", r#"{"id": "1", "subject": " ", "data": {"endpoint": "/"}}"#),
    ("GET", "/api/usage/calls?endpoint=%20", ""),
];

/// Where a user of such a name is asked for, there may be nobody instead.
const BLANK_USERS: &[(&str, &str, &str)] = &[
    ("PUT", "/api/users/%20/plan", r#"{"plan": "pro"}"#),
    ("POST", "/api/usage/reset", r#"{"user_id": " ", "reason": "x"}"#),
    ("POST", "/api/usage/check", r#"{"user_id": " ", "endpoint": "/x"}"#),
    ("GET", "/api/usage/stats?user_id=%20", ""),
    ("GET", "/api/users/%20/export", ""),
    ("POST", "/api/users/%20/erase", ""),
];

/// Bodies that are no JSON at all.
const MALFORMED: &[&[u8]] =
    &[b"", b"{", b"{\"name\": \"x\"", b"{'name': 1}", b"{\"name\": \"\xff\xfe\"}", b"{} {}", b"nul", b"\x00"];

#[tokio::test]
async fn a_wrong_field_is_named() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let service = world.service()?;
    for (body, pointer) in WRONG {
        let answer = put(&service, body.as_bytes()).await?;
        let problem = assert_problem(&answer, 422, "validation_failed");
        assert_eq!(named(&problem), [*pointer], "{body}: {problem}");
    }
    let long = format!(r#"{{"name": "{}"}}"#, "x".repeat(256));
    assert_eq!(
        named(&assert_problem(&put(&service, long.as_bytes()).await?, 422, "validation_failed")),
        ["/name"]
    );
    for body in MALFORMED {
        assert_problem(&put(&service, body).await?, 400, "malformed_json");
    }
    let users = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM users WHERE external_id = 'victim'");
    assert_eq!(users.fetch_one(world.env.pool()).await?, 0, "nothing was stored");
    Ok(())
}

/// What the edge lets in is an event that every reader of the log can read, so this is refused at the edge.
#[tokio::test]
async fn an_id_a_name_or_a_reason_of_blanks_alone_is_refused_everywhere() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let admin = world.client("operator", testkit::Role::Admin)?;
    world.service()?.put("/api/users/victim").json(&json!({})).send().await?.expect(201)?;
    let send = |client: &Client, method: &str, path: &str, body: &str| {
        let request = client.request(method.parse().expect("a method"), path);
        if body.is_empty() { request } else { request.body("application/json", body) }.send()
    };
    for (method, path, body) in BLANK {
        let answer = send(&admin, method, path, body).await?;
        let problem = assert_problem(&answer, 422, "validation_failed");
        assert_eq!(named(&problem).len(), 1, "{method} {path} {body}: {problem}");
    }
    for (method, path, body) in BLANK_USERS {
        let answer = send(&admin, method, path, body).await?;
        assert!([404, 422].contains(&answer.status.as_u16()), "{method} {path} {body}: {}", answer.text());
    }
    let token = format!("ghp_{}", "a1B2".repeat(9));
    let body = json!({"token_type": "github", "token": token, "token_name": "\u{a0}"}).to_string();
    let answer = send(&world.user("victim")?, "POST", "/api/tokens", &body).await?;
    assert_eq!(named(&assert_problem(&answer, 422, "validation_failed")), ["/token_name"]);
    Ok(())
}

#[tokio::test]
async fn every_endpoint_that_takes_json_refuses_what_it_cannot_read() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let admin = world.client("operator", testkit::Role::Admin)?;
    world.service()?.put("/api/users/victim").json(&json!({})).send().await?.expect(201)?;
    for (method, path, good, nul, (status, code, pointer)) in OTHERS {
        let send = |kind: &'static str, body: Vec<u8>| {
            let method = method.parse().expect("a method");
            admin.request(method, path).body(kind, body).send()
        };
        let json = |body: Vec<u8>| send("application/json", body);
        let invalid_utf8 = [b"{\"\xff\": 1}".as_slice(), b"{\"\xed\xa0\x80\": 1}"];
        let cut = &good.as_bytes()[..good.len() - 1];
        for body in [b"".as_slice(), b"{", b"nul", b"\x00", cut].into_iter().chain(invalid_utf8) {
            assert_problem(&json(body.to_vec()).await?, 400, "malformed_json");
        }
        assert_problem(&send("text/plain", good.as_bytes().to_vec()).await?, 415, "unsupported_media_type");
        let large = format!("{}{good}", " ".repeat(2 * 1024 * 1024));
        assert_problem(&json(large.into()).await?, 413, "too_large");
        let unknown = good.replacen('{', r#"{"unknown": 1, "#, 1);
        let problem = assert_problem(&json(unknown.into()).await?, 422, "validation_failed");
        assert_eq!(named(&problem), ["/unknown"], "{path}");
        let problem = assert_problem(&json(nul.as_bytes().to_vec()).await?, *status, code);
        assert_eq!(named(&problem), pointer.iter().copied().collect::<Vec<_>>(), "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn errors_do_not_grow_with_their_cause() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let body = format!(r#"{{"{}": 1}}"#, "k".repeat(900_000));
    let answer = put(&world.service()?, body.as_bytes()).await?;
    assert_problem(&answer, 422, "validation_failed");
    assert!(answer.body.len() < 4_096, "{} bytes", answer.body.len());

    // Nor with what the client calls things.
    let long = "i".repeat(8_000);
    for path in [
        format!("/api/tokens/{long}"),
        format!("/nowhere/{long}"),
        format!("/api/usage/stats?user_id={long}"),
    ] {
        let answer = world.user("somebody")?.get(&path).send().await?;
        assert!(answer.status == 404, "{}", answer.text());
        assert!(answer.body.len() < 1_024, "{} bytes", answer.body.len());
    }
    let long = "i".repeat(500_000);
    let event = json!({"id": long, "subject": "somebody", "data": {"endpoint": "/x"}});
    let answer = world.service()?.post("/api/usage/events").json(&event).send().await?;
    assert!(answer.status == 422 && answer.body.len() < 1_024, "{} bytes", answer.body.len());
    Ok(())
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_413_announced_or_not() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let service = world.service()?;
    let body = format!(r#"{{"name": "{}"}}"#, "x".repeat(10 * 1024 * 1024));
    let problem = assert_problem(&put(&service, body.as_bytes()).await?, 413, "too_large");
    assert!(problem["detail"].as_str().unwrap_or_default().contains("1048576"), "{problem}");
    assert_problem(&chunked(&world, 2 * 1024 * 1024).await?, 413, "too_large");
    Ok(())
}

#[tokio::test]
async fn another_media_type_is_415() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let service = world.service()?;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonish", "nonsense"] {
        let answer = service.put("/api/users/victim").body(kind, "{}").send().await?;
        assert_problem(&answer, 415, "unsupported_media_type");
    }
    // The two readings of a Content-Type are one: that of a report and that of any other body.
    let event = r#"{"id": "1", "subject": "fine", "data": {"endpoint": "/"}}"#;
    for (path, method, body) in [("/api/users/fine", "PUT", "{}"), ("/api/usage/events", "POST", event)] {
        let send = |kinds: &[&str]| {
            let request = service.request(method.parse().expect("a method"), path).bytes(body);
            kinds.iter().fold(request, |request, kind| request.header("content-type", kind)).send()
        };
        for kind in ["application/json; charset=latin1", "application/json; charset=\"utf-16\"", ""] {
            assert_problem(&send(&[kind]).await?, 415, "unsupported_media_type");
        }
        for kinds in
            [["application/json"; 2], ["application/json", "text/plain"], ["text/plain", "application/json"]]
        {
            assert_problem(&send(&kinds).await?, 400, "malformed_header");
        }
    }
    service.put("/api/users/fine").body("Application/JSON; charset=utf-8", "{}").send().await?.expect(201)?;
    Ok(())
}

#[tokio::test]
async fn paths_are_read_strictly() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let service = world.service()?;
    let answer = service.put("/api/users/%ff").json(&json!({})).send().await?;
    assert_problem(&answer, 400, "malformed_uri");
    for path in ["/api/users/a%00b", "/api/users/a%0Ab", "/api/users/%E2%80%AEa"] {
        let problem =
            assert_problem(&service.put(path).json(&json!({})).send().await?, 422, "validation_failed");
        assert_eq!(named(&problem), ["user"]);
    }
    assert_problem(&service.put("/api/users/").json(&json!({})).send().await?, 404, "not_found");
    assert_problem(&service.get("/nowhere").send().await?, 404, "not_found");
    let answer = service.post("/api/users/x").json(&json!({})).send().await?;
    assert_problem(&answer, 405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("PUT"));
    Ok(())
}

#[tokio::test]
async fn request_ids_are_kept_or_made() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let client = world.anonymous()?;
    let kept = client.get("/nowhere").header("x-request-id", "Trace_1.a-b").send().await?;
    assert_eq!(kept.header("x-request-id"), Some("Trace_1.a-b"));
    assert_problem(&kept, 404, "not_found");
    for bad in ["a b", "ä", &"x".repeat(65), "a\tb"] {
        let made = client.get("/healthz").header("x-request-id", bad).send().await?.expect(200)?;
        let id = made.header("x-request-id").unwrap_or_default();
        assert_eq!(id.len(), 36, "{id}");
    }
    Ok(())
}

async fn put(client: &Client, body: &[u8]) -> Result<testkit::Answer> {
    client.put("/api/users/victim").body("application/json", body).send().await
}

/// Sends a body without Content-Length, byte by byte as far as the server is concerned.
async fn chunked(world: &World, bytes: usize) -> Result<testkit::Answer> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = world.api.url.trim_start_matches("http://");
    let token = world.env.token("backend", testkit::Role::Service);
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let head = format!(
        "PUT /api/users/victim HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
    for _ in 0..bytes / 0x4000 {
        if stream.write_all(&chunk).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    // The server may close while we still send; what it said before is there all the same.
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(text: &str) -> Result<testkit::Answer> {
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| anyhow::anyhow!("no answer: {text}"))?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().parse()?;
    let mut headers = axum::http::HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.insert(axum::http::HeaderName::try_from(name)?, value.parse()?);
    }
    Ok(testkit::Answer { status, headers, body: body.to_owned().into() })
}
