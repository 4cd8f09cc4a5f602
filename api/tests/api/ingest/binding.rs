//! CloudEvents' HTTP binding through the real router: what any sender may write is taken, and means what it says.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testkit::{Answer, Client, World};

const EVENTS: &str = "/api/usage/events";
const OPEN_METER: &str = "/api/v1/events";
const SINGLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// Headers that replace or add to the usual ones, and their refusal: status, code, pointer or parameter.
type Refused = (&'static [(&'static str, &'static str)], u16, &'static str, &'static str);

/// An event in binary mode, with headers that replace or add to the usual ones.
async fn binary(
    client: &Client,
    path: &str,
    id: &str,
    changes: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let usual = [
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-source", "/x"),
        ("ce-type", "api.call"),
        ("ce-subject", "cust"),
    ];
    let kept = usual.iter().filter(|(name, _)| changes.iter().all(|(other, _)| other != name));
    let headers = kept.chain(changes).filter(|(_, value)| *value != "absent");
    let request = headers.fold(client.post(path), |request, (name, value)| request.header(name, value));
    request.bytes(body).send().await
}

/// Fault of the answer's only item: code, and pointer or parameter.
fn fault(answer: &Answer) -> Result<(String, String)> {
    let body = answer.json()?;
    let error = &body["errors"][0];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let place = text(&error["pointer"]).or_else(|| text(&error["parameter"]));
    Ok((text(&error["code"]).context("no code")?, place.context("no place")?))
}

#[tokio::test]
async fn binary_mode_is_read_as_the_binding_says() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    let call = r#"{"endpoint":"/api/analyze"}"#;
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("without-a-content-type", &[]),
        ("json", &[("content-type", "application/json")]),
        ("charset", &[("content-type", "application/json; charset=utf-8")]),
        ("suffix", &[("content-type", "application/vnd.example.call+json")]),
        ("same-datacontenttype", &[("ce-datacontenttype", "application/json")]),
        ("quoted", &[("ce-subject", "\"cust\""), ("ce-specversion", "\"1.0\""), ("ce-type", "\"api.call\"")]),
        ("escaped", &[("ce-subject", r#""cu\st""#)]),
        ("encoded", &[("ce-subject", "c%75st"), ("ce-source", "%2fx")]),
        ("extensions", &[("ce-traceparent", "00-1"), ("ce-sampledrate", "7"), ("ce-odd", "%ff\"")]),
    ];
    for (id, changes) in cases {
        let answer = binary(&service, EVENTS, id, changes, call).await?.expect(202).context(*id)?;
        assert_eq!(answer.json()?["items"][0]["id"], *id);
    }
    assert_eq!(world.summary("cust").await?, (cases.len().try_into()?, cases.len().try_into()?));
    binary(&service, OPEN_METER, "open-meter", &[], r#"{"route":"/y"}"#).await?.expect(204)?;
    binary(&service, OPEN_METER, "no-data", &[], "").await?.expect(204)?;

    let wrong: &[Refused] = &[
        (&[("ce-id", "absent")], 422, "missing", "/id"),
        (&[("ce-type", "absent")], 422, "missing", "/type"),
        (&[("ce-source", "absent")], 422, "missing", "/source"),
        (&[("ce-specversion", "0.3")], 422, "unsupported_specversion", "/specversion"),
        (&[("ce-subject", "%C0%A0")], 422, "invalid", "ce-subject"),
        (&[("ce-subject", "\"cust")], 422, "invalid", "ce-subject"),
        (&[("ce-subject", "\"\"")], 422, "empty", "/subject"),
        (&[("ce-subject", "%20%E3%80%80")], 422, "blank", "/subject"),
        (&[("ce-datacontenttype", "text/xml")], 422, "unsupported", "/datacontenttype"),
    ];
    for (changes, status, code, place) in wrong {
        let answer = binary(&service, EVENTS, "wrong", changes, call).await?.expect(*status)?;
        assert_eq!(fault(&answer)?, ((*code).to_owned(), (*place).to_owned()), "{changes:?}");
    }
    for content_type in
        ["text/plain", "application/xml", "application/json; charset=latin1", "application/cloudevents+avro"]
    {
        let answer = binary(&service, EVENTS, "wrong", &[("content-type", content_type)], call).await?;
        assert_eq!(answer.expect(415)?.code(), "unsupported_media_type", "{content_type}");
    }
    Ok(())
}

#[tokio::test]
async fn data_may_be_in_base64() -> Result<()> {
    let world = World::start().await?;
    let service = world.service()?;
    let event = |id: &str, kind: Option<&str>, data: &str| {
        json!({"specversion": "1.0", "id": id, "source": "/x", "type": "api.call", "subject": "cust",
               "datacontenttype": kind, "data_base64": data})
    };
    let call = STANDARD.encode(r#" {"endpoint":"/api/analyze","units":2.0} "#);
    let send = |path: &'static str, kind: &'static str, body: Value| {
        service.post(path).body(kind, body.to_string()).send()
    };
    send(EVENTS, SINGLE, event("1", None, &call)).await?.expect(202)?;
    let batch = json!([
        event("2", Some("application/json"), &call),
        event("3", Some("application/x+json; charset=utf-8"), call.trim_end_matches('=')),
    ]);
    send(EVENTS, BATCH, batch).await?.expect(202)?;
    let meter = STANDARD.encode(r#"{"route":"/api/analyze","units":3,"tokens":7}"#);
    send(OPEN_METER, SINGLE, event("4", None, &meter)).await?.expect(204)?;
    assert_eq!(world.summary("cust").await?, (9, 9));

    let unknown = STANDARD.encode(r#"{"endpoint":"/x","verb":"GET"}"#);
    let wrong = [
        (event("5", Some("text/xml"), &call), "unsupported", "/datacontenttype"),
        (event("5", None, "not base64!"), "invalid", "/data_base64"),
        (event("5", None, &STANDARD.encode("no JSON")), "invalid", "/data_base64"),
        (event("5", None, &STANDARD.encode([0xff, 0xfe])), "invalid", "/data_base64"),
        (event("5", None, &STANDARD.encode("7")), "invalid", "/data"),
        (event("5", None, &unknown), "unknown_field", "/data/verb"),
        (event("5", None, ""), "invalid", "/data_base64"),
    ];
    for (event, code, place) in wrong {
        let answer = send(EVENTS, SINGLE, event.clone()).await?.expect(422)?;
        assert_eq!(fault(&answer)?, (code.to_owned(), place.to_owned()), "{event}");
    }
    let mut both = event("5", None, &call);
    both["data"] = json!({"endpoint": "/x"});
    assert_eq!(fault(&send(EVENTS, SINGLE, both).await?)?.1, "/data_base64");
    // Data of another kind is told so, also where it is no object.
    let text = json!({"specversion": "1.0", "id": "6", "source": "/x", "type": "t", "subject": "cust",
                      "datacontenttype": "text/plain", "data": "a call"});
    assert_eq!(
        fault(&send(EVENTS, SINGLE, text).await?)?,
        ("unsupported".to_owned(), "/datacontenttype".to_owned())
    );
    Ok(())
}
