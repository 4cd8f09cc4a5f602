//! Packed reports: what may be unpacked, and what is refused before it costs anything.

use std::io::Write;

use anyhow::Result;
use api::auth::{Access, ROUTES};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use testkit::{Answer, Client, Role, World};

use crate::accounts::browser::signed_in;
use crate::answers::assert_problem;

const PATHS: [&str; 2] = ["/api/usage/events", "/api/v1/events"];

fn gzip(bytes: &[u8], level: u32) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn event(id: &str) -> Value {
    json!([{"id": id, "subject": "cust", "type": "t", "data": {"endpoint": "/api/analyze"}}])
}

async fn send(client: &Client, path: &str, coding: &str, body: impl Into<Vec<u8>>) -> Result<Answer> {
    client.post(path).header("content-encoding", coding).body("application/json", body).send().await
}

#[tokio::test]
async fn reports_may_be_packed() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    let mut sent = 0;
    for path in PATHS {
        for coding in ["gzip", "x-gzip", "GZIP", "zstd", "identity", ""] {
            sent += 1;
            let body = event(&sent.to_string()).to_string();
            let packed = match coding {
                "identity" | "" => body.into(),
                "zstd" => zstd::encode_all(body.as_bytes(), 0)?,
                _ => gzip(body.as_bytes(), 6)?,
            };
            let answer = send(&service, path, coding, packed).await?;
            assert!(answer.status.is_success(), "{path} {coding}: {}", answer.text());
        }
    }
    assert_eq!(world.summary("cust").await?, (sent, sent));
    // A retry is the same request however its sender packs it.
    let keyed = |coding: &'static str, body: Vec<u8>| {
        let request =
            service.post(PATHS[0]).header("idempotency-key", "k").header("content-encoding", coding);
        request.body("application/json", body).send()
    };
    let (report, another) = (event("keyed").to_string(), event("another").to_string());
    keyed("gzip", gzip(report.as_bytes(), 9)?).await?.expect(202)?;
    for again in
        [keyed("gzip", gzip(report.as_bytes(), 0)?), keyed("zstd", zstd::encode_all(report.as_bytes(), 0)?)]
    {
        assert_eq!(again.await?.expect(202)?.header("idempotency-replayed"), Some("true"));
    }
    let other = keyed("gzip", gzip(another.as_bytes(), 9)?).await?;
    assert_problem(&other, 422, "idempotency_key_reused");
    Ok(())
}

#[tokio::test]
async fn what_cannot_or_must_not_be_unpacked_is_refused() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let service = world.service()?;
    let body = event("1").to_string();
    let bomb = vec![b' '; 512 * 1024 * 1024];
    let bombs = [("gzip", gzip(&bomb, 9)?), ("zstd", zstd::encode_all(bomb.as_slice(), 1)?)];
    drop(bomb);
    let packed = [("gzip", gzip(body.as_bytes(), 6)?), ("zstd", zstd::encode_all(body.as_bytes(), 0)?)];
    for path in PATHS {
        for (coding, bomb) in &bombs {
            assert!(bomb.len() < 1024 * 1024);
            assert_problem(&send(&service, path, coding, bomb.clone()).await?, 413, "too_large");
            let large = vec![b'x'; 8 * 1024 * 1024 + 1];
            assert_problem(&send(&service, path, coding, large).await?, 413, "too_large");
        }
        for (coding, packed) in &packed {
            let cut = &packed[..packed.len() - 3];
            let more = [packed.as_slice(), b"garbage"].concat();
            for wrong in [cut, &more, body.as_bytes(), b""] {
                assert_problem(&send(&service, path, coding, wrong).await?, 400, "malformed_encoding");
            }
            let refused = send(&service, path, coding, [packed.as_slice(), packed].concat()).await?;
            assert_problem(&refused, 400, "malformed_json");
        }
        for coding in ["br", "deflate", "compress", "gzip, gzip", "zstd, gzip", "gzip;q=1", "*"] {
            let answer = send(&service, path, coding, packed[0].1.clone()).await?;
            assert_problem(&answer, 415, "unsupported_encoding");
            assert_eq!(answer.header("accept-encoding"), Some("gzip, zstd"), "{coding}");
        }
    }
    assert_eq!(world.api.handle.log.state().await?.last_seq, 0);
    Ok(())
}

#[tokio::test]
async fn every_other_route_takes_plain_bodies_alone() -> Result<()> {
    let world = World::without_worker(&[("REGISTRATION", "open")]).await?;
    let browser = signed_in(&world, "ada@example.com").await?;
    let document = serde_json::to_value(api::router::document())?;
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            if operation["requestBody"].is_null() || PATHS.contains(&path.as_str()) {
                continue;
            }
            let role = if path.starts_with("/api/tokens") { Role::User } else { Role::Admin };
            let client = world.client("operator", role)?;
            let named = path;
            let path =
                path.replace("{user}", "u").replace("{call_id}", "0198e9a6-58a5-7cc3-9f0b-0123456789ab");
            let is_for_people =
                ROUTES.iter().any(|route| route.path == named.as_str() && route.access == Access::SignedIn);
            for coding in ["gzip", "br"] {
                let verb = method.to_uppercase().parse()?;
                let request =
                    if is_for_people { browser.request(verb, &path) } else { client.request(verb, &path) };
                let request = request.header("content-encoding", coding).body("application/json", "{}");
                let answer = request.send().await?;
                assert_problem(&answer, 415, "unsupported_encoding");
                assert_eq!(answer.header("accept-encoding"), Some("identity"), "{method} {path}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 16, "{tried}");
    Ok(())
}
