//! The forms in which events come, and what is no event.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Answer, Client, World};

const SINGLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

fn cloud_event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "gateway", "type": "call", "subject": "customer", "extension": {"a": 1},
           "data": {"endpoint": "/api/x"}})
}

async fn send(client: &Client, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Result<Answer> {
    client.post(path).body(content_type, body).send().await
}

fn error(answer: &Answer) -> Result<(String, String)> {
    let body = answer.json()?;
    let text = |name: &str| {
        body["errors"][0][name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {body}"))
    };
    Ok((text("code")?, text("pointer")?))
}

#[tokio::test]
async fn cloud_events_come_in_three_modes() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    let path = "/api/usage/events";
    send(&service, path, SINGLE, cloud_event("1").to_string()).await?.expect(202)?;
    send(&service, path, "Application/CloudEvents+JSON; charset=UTF-8", cloud_event("2").to_string())
        .await?
        .expect(202)?;
    send(&service, path, BATCH, json!([cloud_event("3"), cloud_event("4")]).to_string())
        .await?
        .expect(202)?;
    let binary = |id: &'static str| {
        let request = service.post(path).header("ce-specversion", "1.0").header("ce-id", id);
        let request = request.header("ce-source", "gateway").header("ce-type", "call").header("ce-ext", "x");
        request.header("ce-time", "2026-11-24T03:00:00Z").header("ce-subject", "customer")
    };
    world.env.clock.set("2026-11-24T03:00:30Z".parse()?);
    let answer = binary("euro%20%E2%82%AC")
        .body("application/json", r#"{"endpoint":"/api/x"}"#)
        .send()
        .await?
        .expect(202)?;
    assert_eq!(answer.json()?["items"][0]["id"], "euro €");
    let answer = binary("6")
        .body("application/json", r#"{"endpoint":"/api/x","verb":"GET"}"#)
        .send()
        .await?
        .expect(422)?;
    assert_eq!(error(&answer)?, ("unknown_field".to_owned(), "/data/verb".to_owned()));
    binary("7").body("application/json", "{").send().await?.expect(400)?;
    let answer = binary("8")
        .header("ce-id", "9")
        .body("application/json", r#"{"endpoint":"/x"}"#)
        .send()
        .await?
        .expect(422)?;
    assert_eq!(answer.json()?["errors"][0]["parameter"], "ce-id");
    assert_eq!(world.summary("customer").await?, (5, 0));
    Ok(())
}

#[tokio::test]
async fn a_key_names_the_headers_that_are_part_of_what_is_reported() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    let report = |key: &str, id: &str, more: &[(&str, &str)]| {
        let request = service.post("/api/usage/events").header("idempotency-key", key);
        let request =
            request.header("ce-specversion", "1.0").header("ce-id", id).header("ce-source", "gateway");
        let request = request.header("ce-type", "call").header("ce-subject", "customer");
        let request = more.iter().fold(request, |request, (name, value)| request.header(name, value));
        request.body("application/json", r#"{"endpoint":"/api/x"}"#).send()
    };
    report("k", "1", &[]).await?.expect(202)?;
    let again = report("k", "1", &[("x-other", "is no part of it")]).await?.expect(202)?;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    // Another call with the same body must not be answered "accepted" without being recorded.
    assert_eq!(report("k", "2", &[]).await?.expect(422)?.code(), "idempotency_key_reused");
    let backfill = report("k", "1", &[("x-backfill", "true")]).await?.expect(422)?;
    assert_eq!(backfill.code(), "idempotency_key_reused");
    report("l", "2", &[]).await?.expect(202)?;
    assert_eq!(world.summary("customer").await?, (2, 0));
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_no_list_of_events_is_refused_as_a_whole() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    let many: Vec<Value> = (0..1_001).map(|n| cloud_event(&n.to_string())).collect();
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        (BATCH, json!(many).to_string().into(), 413, "too_large"),
        (BATCH, format!("[{}1]", "1,".repeat(1_000_000)).into(), 413, "too_large"),
        (BATCH, vec![b'['; 9 * 1024 * 1024], 413, "too_large"),
        (BATCH, "[]".into(), 422, "validation_failed"),
        ("application/json", " [ ] ".into(), 422, "validation_failed"),
        (BATCH, cloud_event("1").to_string().into(), 400, "malformed_event"),
        (SINGLE, "[]".into(), 400, "malformed_event"),
        ("application/json", "7".into(), 400, "malformed_event"),
        ("application/json", "".into(), 400, "malformed_json"),
        ("application/json", "{".into(), 400, "malformed_json"),
        ("application/json", "[{},".into(), 400, "malformed_json"),
        ("application/json", "{}x".into(), 400, "malformed_json"),
        ("application/json", b"{\"id\":\"\xff\"}".to_vec(), 400, "malformed_json"),
        ("text/plain", "{}".into(), 415, "unsupported_media_type"),
        ("application/json; charset=latin1", "{}".into(), 415, "unsupported_media_type"),
        ("application/xml", "<e/>".into(), 415, "unsupported_media_type"),
    ];
    for (content_type, body, status, code) in cases {
        for path in ["/api/usage/events", "/api/v1/events"] {
            let start = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            let answer = send(&service, path, content_type, body.clone()).await?;
            assert_eq!(
                (answer.status.as_u16(), answer.code().as_str()),
                (status, code),
                "{content_type} {start}: {}",
                answer.text()
            );
        }
    }
    assert_eq!(world.api.handle.log.state().await?.last_seq, 0);
    Ok(())
}

#[tokio::test]
async fn a_wrong_field_is_named() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    let good = || json!({"id": "1", "subject": "customer", "data": {"endpoint": "/api/x"}});
    let with = |path: &str, value: Value| {
        let mut event = good();
        let target = path.split('/').skip(1).fold(&mut event, |at, key| &mut at[key]);
        *target = value;
        event
    };
    let cases = vec![
        (json!({}), "missing", "/data"),
        (json!("text"), "invalid", ""),
        (with("/id", json!(7)), "invalid", "/id"),
        (with("/id", json!("")), "empty", "/id"),
        (with("/id", json!("a\u{0}b")), "invalid_characters", "/id"),
        (with("/id", json!("x".repeat(256))), "too_long", "/id"),
        (with("/id", Value::Null), "missing", "/id"),
        (with("/source", json!("urn:usage-ledger:api")), "reserved_source", "/source"),
        (with("/source", json!("a\u{202e}b")), "invalid_characters", "/source"),
        (with("/subject", json!({})), "invalid", "/subject"),
        (with("/specversion", json!("0.3")), "unsupported_specversion", "/specversion"),
        (with("/datacontenttype", json!("text/xml")), "unsupported", "/datacontenttype"),
        (with("/data_base64", json!("e30=")), "invalid", "/data_base64"),
        (with("/id", json!(" \u{3000}")), "blank", "/id"),
        (with("/subject", json!("\u{a0}")), "blank", "/subject"),
        (with("/source", json!(" ")), "blank", "/source"),
        (with("/data", json!([])), "invalid", "/data"),
        (with("/data/endpoint", json!("api/x")), "not_a_path", "/data/endpoint"),
        (with("/data/endpoint", json!("/a%2fb")), "encoded_slash_in_path", "/data/endpoint"),
        (with("/data/endpoint", json!("/a\u{0}")), "invalid_characters", "/data/endpoint"),
        (with("/data/endpoint", json!(format!("/{}", "x".repeat(2_048)))), "too_long", "/data/endpoint"),
        (with("/data/method", json!("GET IT")), "invalid_method", "/data/method"),
        (with("/data/method", json!("X".repeat(33))), "invalid_method", "/data/method"),
        (with("/data/status_code", json!(600)), "invalid_status_code", "/data/status_code"),
        (with("/data/status_code", json!(200.5)), "invalid", "/data/status_code"),
        (with("/data/response_time_ms", json!(-1)), "invalid", "/data/response_time_ms"),
        (with("/data/response_time_ms", json!(4_000_000_000_u32)), "out_of_range", "/data/response_time_ms"),
        (with("/data/request_size", json!(u64::MAX)), "out_of_range", "/data/request_size"),
        (with("/data/ip_address", json!("localhost")), "invalid_ip_address", "/data/ip_address"),
        (with("/data/units", json!(0)), "invalid_units", "/data/units"),
        (with("/data/units", json!(1_000_001)), "invalid_units", "/data/units"),
        (with("/data/user", json!("x")), "unknown_field", "/data/user"),
        (with("/data/status", json!(200)), "unknown_field", "/data/status"),
    ];
    for (event, code, pointer) in &cases {
        let body = serde_json::to_vec(&json!([event]))?;
        let answer = send(&service, "/api/usage/events", "application/json", body).await?.expect(422)?;
        assert_eq!(error(&answer)?, ((*code).to_owned(), (*pointer).to_owned()), "{event}");
        let body = answer.json()?;
        assert_eq!(body["items"][0]["error"]["code"], *code);
        assert_eq!((&body["accepted"], &body["rejected"]), (&json!(0), &json!(1)));
    }
    let all: Vec<&Value> = cases.iter().map(|(event, ..)| event).collect();
    let answer =
        send(&service, "/api/usage/events", "application/json", json!(all).to_string()).await?.expect(422)?;
    let (_, pointer) = error(&answer)?;
    assert_eq!(pointer, "/0/data", "in a batch the item is named too");
    // A number that no JSON reader holds is a wrong field, not a broken body.
    let huge = r#"[{"id":"1","subject":"c","data":{"endpoint":"/x","units":1e999}},{"id":"2","subject":"c","data":{"endpoint":"/x"}}]"#;
    let answer = send(&service, "/api/usage/events", "application/json", huge).await?.expect(202)?;
    assert_eq!(answer.json()?["items"][0]["error"]["pointer"], "/data/units");
    let twice = r#"{"id":"1","id":"2","subject":"c","data":{"endpoint":"/x"}}"#;
    let answer = send(&service, "/api/usage/events", "application/json", twice).await?.expect(422)?;
    assert_eq!(error(&answer)?, ("duplicate".to_owned(), "/id".to_owned()));
    Ok(())
}

#[tokio::test]
async fn open_meter_s_clients_are_answered_as_they_expect() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    let path = "/api/v1/events";
    let event = |id: &str, data: Value| {
        let mut event = cloud_event(id);
        event["data"] = data;
        event["type"] = json!("prompt");
        event
    };
    let batch = json!([
        event("1", json!({"endpoint": "/api/analyze", "route": "/x", "units": 2, "tokens": "many"})),
        event("2", json!({"route": "/api/analyze", "method": 7})),
        event("3", json!({"path": "/api/auth/login"})),
        event("4", json!({"model": "gpt", "tokens": 12})),
        event("5", json!("text")),
        event("6", Value::Null),
    ]);
    let answer = send(&service, path, BATCH, batch.to_string()).await?.expect(204)?;
    assert!(answer.body.is_empty() && answer.header("ledger-seq").is_some());
    send(&service, path, BATCH, batch.to_string()).await?.expect(204)?;
    assert_eq!(world.summary("customer").await?, (7, 3));
    let endpoints: Vec<(String, i64)> =
        sqlx::query_as("SELECT endpoint, sum(units)::bigint FROM api_usage GROUP BY 1 ORDER BY 1")
            .fetch_all(world.env.pool())
            .await?;
    let expected = [("/api/analyze", 3), ("/api/auth/login", 1), ("event:prompt", 3)];
    assert_eq!(endpoints.iter().map(|(e, n)| (e.as_str(), *n)).collect::<Vec<_>>(), expected);

    let mixed = json!([event("7", json!({"units": 0})), event("8", json!({"route": "/y"}))]);
    for _ in 0..2 {
        let answer = send(&service, path, BATCH, mixed.to_string()).await?.expect(400)?;
        assert_eq!(error(&answer)?, ("invalid_units".to_owned(), "/0/data/units".to_owned()));
    }
    assert_eq!(world.summary("customer").await?, (8, 3), "the good one is stored, once");
    let single =
        send(&service, path, SINGLE, event("9", json!({"path": "/a%2fb"})).to_string()).await?.expect(400)?;
    assert_eq!(single.code(), "validation_failed");

    // A key is for OpenMeter's clients too: the same answer again, and nothing else under it.
    let keyed = |id: &str, data: Value| {
        let request = service.post(path).header("idempotency-key", "k");
        request.body(SINGLE, event(id, data).to_string()).send()
    };
    let first = keyed("10", json!({"route": "/z"})).await?.expect(204)?;
    let again = keyed("10", json!({"route": "/z"})).await?.expect(204)?;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.header("ledger-seq"), again.header("ledger-seq"));
    assert_eq!(again.header("content-type"), None);
    assert_eq!(keyed("11", json!({"route": "/z"})).await?.expect(422)?.code(), "idempotency_key_reused");
    assert_eq!(world.summary("customer").await?, (9, 3));
    Ok(())
}
