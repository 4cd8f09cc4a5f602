//! The binding, sentence by sentence.

use axum::http::{HeaderValue, header};

use super::*;

/// Headers of a request; `ce` adds those that make it one in binary mode.
fn headers(content_type: Option<&str>, ce: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
    }
    if ce {
        headers.insert("ce-specversion", HeaderValue::from_static("1.0"));
    }
    headers
}

#[test]
fn the_content_type_tells_the_mode() {
    use Carrier::{Body, Headers};
    let structured = Some(Body(Form::Single));
    let batched = Some(Body(Form::Batch));
    for (content_type, without, with_headers) in [
        (Some("application/cloudevents+json"), structured, structured),
        (Some("application/cloudevents+json; charset=UTF-8"), structured, structured),
        (Some("Application/CloudEvents+JSON;charset=\"utf-8\""), structured, structured),
        (Some("application/cloudevents-batch+json; charset=utf-8"), batched, batched),
        (Some("application/cloudevents-batch+json"), batched, batched),
        // Event formats that are not ours are no data of an event either.
        (Some("application/cloudevents+avro"), None, None),
        (Some("application/cloudevents"), None, None),
        (Some("application/cloudevents-batch+xml"), None, None),
        (Some("application/cloudevents-x+json"), None, None),
        (Some("application/json"), Some(Body(Form::Plain)), Some(Headers)),
        (Some("application/json; charset=us-ascii"), Some(Body(Form::Plain)), Some(Headers)),
        (Some("application/json; charset=latin1"), None, None),
        (Some("application/cloudevents+json; charset=utf-16"), None, None),
        (Some("application/vnd.calls.v2+json"), None, Some(Headers)),
        (Some("TEXT/JSON"), None, Some(Headers)),
        (Some("text/plain"), None, None),
        (Some("application/xml"), None, None),
        (Some("application/octet-stream"), None, None),
        (Some(""), None, Some(Headers)),
        (None, None, Some(Headers)),
    ] {
        assert_eq!(carrier(&headers(content_type, false)).ok(), without, "{content_type:?}");
        assert_eq!(carrier(&headers(content_type, true)).ok(), with_headers, "{content_type:?} with ce-");
    }
}

/// The attribute that this header's value is, or none where it is refused.
fn read(value: &[u8]) -> Option<String> {
    let mut headers = HeaderMap::new();
    headers.insert("ce-subject", HeaderValue::from_bytes(value).unwrap());
    attribute(&headers, "ce-subject").ok().flatten().map(Cow::into_owned)
}

#[test]
fn values_are_unquoted_and_then_decoded_once() {
    for (value, meant) in [
        ("simple", "simple"),
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ("%41%42", "AB"),
        ("%2541", "%41"),
        ("%22quoted%22", "\"quoted\""),
        ("\"cust-1\"", "cust-1"),
        ("\"1.0\"", "1.0"),
        ("\"a b\"", "a b"),
        (r#""a \"b\" \\ c""#, r#"a "b" \ c"#),
        (r#""\%41""#, "A"),
        ("\"Euro%20%E2%82%AC\"", "Euro €"),
        ("\"\"", ""),
        ("\"a\"\"b\"", "ab"),
        ("a\\b", "a\\b"),
        ("100%", "100%"),
        ("50%zz", "50%zz"),
        ("a%2", "a%2"),
        ("Euro €", "Euro €"),
        ("a;b=c, (no comment)", "a;b=c, (no comment)"),
    ] {
        assert_eq!(read(value.as_bytes()).as_deref(), Some(meant), "{value}");
    }
}

#[test]
fn what_no_sender_may_write_is_refused() {
    let values = ["%C0%A0", "%ff", "%ED%A0%80", "a%E2%82", "\"open", "open\"", "\"a\\", "\"a\\\"", "a\"b"];
    for value in values {
        assert_eq!(read(value.as_bytes()), None, "{value}");
    }
    assert_eq!(read(b"\xff"), None);
    let mut twice = HeaderMap::new();
    twice.append("ce-id", HeaderValue::from_static("1"));
    twice.append("ce-id", HeaderValue::from_static("1"));
    assert_eq!(attribute(&twice, "ce-id").unwrap_err().parameter.as_deref(), Some("ce-id"));
    assert_eq!(attribute(&twice, "ce-subject"), Ok(None));
}
