//! Tests of reading frames' bodies: bad events, unknown types, bounds.

use std::error::Error;

use ledger::{Category, Currency, Money, Month, PlanName, UserId, text};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::actor::{Actor, ActorKind};
use crate::body::{ApiCalled, Body, PlanChanged};
use crate::encode::encode;
use crate::event::MAX_EVENT_BYTES;
use crate::event_type;
use crate::sealed::SealedJson;

const USER: &str = "5b0a4d3e-5c8f-4a56-9d0f-6d2d4f3f1a77";

fn good(id: u128) -> String {
    let call = ApiCalled::new("/api/analyze", Category::Analyze);
    let user = UserId::new(Uuid::try_parse(USER).unwrap());
    let time = Month::new(2026, 11).unwrap().start();
    let mut json = Vec::new();
    encode(&Event::by_api(Uuid::from_u128(id), user, time, Body::ApiCalled(call)), &mut json);
    String::from_utf8(json).unwrap()
}

fn with(find: &str, replacement: &str) -> String {
    let json = good(1);
    assert!(json.contains(find), "{find} is not in {json}");
    json.replace(find, replacement)
}

fn call_data(data: &str) -> String {
    let json = good(1);
    let (before, _) = json.split_once("\"data\":").unwrap();
    format!("{before}\"data\":{data}}}")
}

fn typed(event_type: &str, data: &str) -> String {
    call_data(data).replace(event_type::API_CALLED, event_type)
}

/// An event that has a type and nothing else.
fn only_typed() -> String {
    format!("{{\"type\":\"{}\"}}", event_type::API_CALLED)
}

fn reason(json: &str) -> (&'static str, String) {
    let error = decode(json).expect_err("it is wrong");
    (error.reason(), error.detail())
}

#[test]
fn a_bad_event_hides_no_other() {
    let only_typed = only_typed();
    for bad in ["{}", "1", "null", "[[[]]]", "\"text\"", &only_typed] {
        for layout in
            [format!("[{},{bad},{}]", good(1), good(2)), format!(" [ {} ,\n{bad}\t, {} ] ", good(1), good(2))]
        {
            let events = decode_batch(layout.as_bytes()).unwrap_or_else(|error| panic!("{layout}: {error}"));
            assert_eq!(events.len(), 3);
            assert_eq!(events[0].as_ref().unwrap().id, Uuid::from_u128(1).to_string());
            assert_eq!(events[1].as_ref().unwrap_err().reason(), "malformed");
            assert_eq!(events[2].as_ref().unwrap().id, Uuid::from_u128(2).to_string());
        }
    }
}

#[test]
fn what_is_no_batch_is_an_error_of_the_frame() {
    assert_eq!(decode_batch(b"[]").unwrap().len(), 0);
    assert_eq!(decode_batch(b" [ \n] ").unwrap().len(), 0);
    assert!(matches!(decode_batch(b""), Err(FrameBodyError::NotAnArray)));
    assert!(matches!(decode_batch(good(1).as_bytes()), Err(FrameBodyError::NotAnArray)));
    assert!(matches!(decode_batch(b"[\"\xff\"]"), Err(FrameBodyError::NotUtf8(_))));
    let event = good(1);
    for body in [
        format!("[{event}"),
        format!("[{event},"),
        format!("[{event},]"),
        format!("[{event}]]"),
        format!("[{event}{event}]"),
        format!("[{event};{event}]"),
        format!("[,{event}]"),
        format!("[{event},{{\"a\":]"),
        format!("[{event},tru]"),
        "[".to_owned(),
        format!("[{}]", &event[..event.len() - 1]),
    ] {
        let error = decode_batch(body.as_bytes()).expect_err(&body);
        assert!(matches!(error, FrameBodyError::Malformed { .. }), "{body}: {error}");
    }
}

#[test]
fn deep_nesting_is_one_bad_event() {
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let body = format!("[{},{}]", call_data(&deep), good(2));
    let events = decode_batch(body.as_bytes()).unwrap();
    assert_eq!(events[0].as_ref().unwrap_err().reason(), "invalid_data");
    assert!(events[1].is_ok());
}

#[test]
fn unknown_types_and_versions_are_kept_for_later() {
    let cases = [
        ("usage.api_called.v2", "usage.api_called", 2),
        ("tokens.token_stored.v1", "tokens.token_stored", 1),
        ("usage.api_called", "usage.api_called", 0),
        ("usage.api_called.v01", "usage.api_called.v01", 0),
        ("usage.api_called.v", "usage.api_called.v", 0),
        ("usage.api_called.v99999999999", "usage.api_called.v99999999999", 0),
        ("Usage.Api_Called.v1", "Usage.Api_Called", 1),
    ];
    for (event_type, name, version) in cases {
        let json = typed(event_type, "{\"whatever\":[1,2]}");
        let event = decode(&json).unwrap();
        assert_eq!(event.body, Body::Unknown { event_type: name.into(), version });
        assert_eq!(event.body.event_type(), event_type);
    }
    let without_data =
        good(1).split_once(",\"data\"").unwrap().0.replace("api_called.v1", "api_called.v9") + "}";
    assert!(matches!(decode(&without_data).unwrap().body, Body::Unknown { version: 9, .. }));
}

#[test]
fn a_broken_envelope_is_malformed() {
    let subject = format!("\"subject\":\"{USER}\"");
    let cases = [
        with("\"1.0\"", "\"0.3\""),
        with("\"specversion\":\"1.0\",", ""),
        with("\"id\":", "\"ident\":"),
        with("\"source\":", "\"origin\":"),
        with("\"2026-11-01T00:00:00.000000Z\"", "\"yesterday\""),
        with("\"2026-11-01T00:00:00.000000Z\"", "1793491200"),
        with(&subject, "\"subject\":7"),
        with("\"id\":", "\"id\":\"twice\",\"id\":"),
        with("urn:usage-ledger:api", "\\ud800"),
    ];
    for json in cases {
        assert_eq!(reason(&json).0, "malformed", "{json}");
    }
    let error = decode(&only_typed()).unwrap_err();
    assert_eq!(error.event_type, event_type::API_CALLED);
    assert!(error.source().is_some());
    assert_eq!(decode("{\"type\":\"a\\u0000\"}").unwrap_err().event_type, "unknown");
}

#[test]
fn what_the_tables_cannot_hold_is_refused_by_field() {
    let endpoint = |field: &str| {
        call_data(&format!(
            "{{\"endpoint\":\"/\",\"units\":1,\"category\":\"other\",\"counted\":true,{field}}}"
        ))
    };
    let long = "a".repeat(2_049);
    let cases = [
        (with("00000000-0000-0000-0000-000000000001", ""), "empty", "id"),
        (with("00000000-0000-0000-0000-000000000001", "a\\u0000"), "invalid_characters", "id"),
        (with("urn:usage-ledger:api", &"s".repeat(256)), "too_long", "source"),
        (with(USER, "alice"), "invalid_uuid", "subject"),
        (with(&format!("\"subject\":\"{USER}\","), ""), "missing", "subject"),
        (with("2026-11-01", "1999-12-31"), "time_out_of_range", "time"),
        (with("\"/api/analyze\"", "\"\""), "empty", "data.endpoint"),
        (with("/api/analyze", &long), "too_long", "data.endpoint"),
        (with("/api/analyze", "/\\u0000"), "invalid_characters", "data.endpoint"),
        (with("/api/analyze", "/\u{202e}"), "invalid_characters", "data.endpoint"),
        (with("\"units\":1", "\"units\":0"), "invalid_units", "data.units"),
        (with("\"units\":1", "\"units\":1000001"), "invalid_units", "data.units"),
        (endpoint("\"method\":\"G T\""), "invalid_method", "data.method"),
        (endpoint("\"status_code\":99"), "invalid_status_code", "data.status_code"),
        (endpoint("\"response_time_ms\":2147483648"), "invalid_response_time", "data.response_time_ms"),
        (endpoint("\"request_size\":9223372036854775808"), "invalid_size", "data.request_size"),
        (endpoint("\"actor\":{\"kind\":\"user\",\"id\":\"\"}"), "empty", "data.actor"),
    ];
    for (json, expected, field) in cases {
        let (reason, detail) = reason(&json);
        assert_eq!(reason, expected, "{json}");
        assert!(detail.starts_with(&format!("{field}: ")), "{detail}");
    }
}

#[test]
fn what_accounts_and_failures_cannot_be_is_refused_by_field() {
    let fact = |fields: &str| {
        let actor = "\"actor\":{\"kind\":\"user\",\"id\":\"u\"}";
        typed("user.signed_in.v1", &format!("{{{fields}{actor}}}"))
    };
    assert!(decode(&fact("")).is_ok());
    assert!(decode(&fact(&format!("\"method\":\"{}\",", "m".repeat(64)))).is_ok());
    let failed = |network: &str, times: usize, other: &str| {
        let count = format!("{{\"reason\":\"expired\",\"network\":\"{network}\",\"failures\":1}}");
        let counts = vec![count; times].join(",");
        let data =
            format!("{{\"window_start\":\"2026-11-01T00:00:00Z\",\"counts\":[{counts}],\"other\":{other}}}");
        typed(event_type::AUTH_FAILED, &data).replace(&format!("\"subject\":\"{USER}\","), "")
    };
    assert!(decode(&failed("192.0.2.0/24", 64, "0")).is_ok());
    let cases = [
        (fact("\"method\":\"\","), "empty", "data.method"),
        (fact(&format!("\"method\":\"{}\",", "m".repeat(65))), "too_long", "data.method"),
        (fact("\"method\":\"\\u0007\","), "invalid_characters", "data.method"),
        (fact("").replace("\"id\":\"u\"", "\"id\":\"\""), "empty", "data.actor"),
        (fact("").replace(&format!("\"subject\":\"{USER}\","), ""), "missing", "subject"),
        (failed("192.0.2.0/24", 65, "0"), "too_many", "data.counts"),
        (failed("", 1, "0"), "empty", "data.counts.network"),
        (failed("192.0.2.0/24", 1, "9223372036854775808"), "too_large", "data.other"),
        (
            failed("192.0.2.0/24", 1, "0")
                .replace("2026-11-01T00:00:00Z\",\"c", "1999-11-01T00:00:00Z\",\"c"),
            "time_out_of_range",
            "data.window_start",
        ),
    ];
    for (json, expected, field) in cases {
        let (reason, detail) = reason(&json);
        assert_eq!(reason, expected, "{json}");
        assert!(detail.starts_with(&format!("{field}: ")), "{detail}");
    }
}

/// A replay gives the rows that there were, whatever the edges refuse since.
#[test]
fn what_an_older_edge_let_in_stays_readable() {
    let blank = with("\"source\":\"urn:usage-ledger:api\"", "\"source\":\" \"");
    assert_eq!(decode(&blank).map(|event| event.source.into_owned()).ok().as_deref(), Some(" "));
}

/// What text the edges accept, they may write: whoever reads the log reads it.
#[test]
fn whatever_text_an_edge_accepts_can_be_read_again() {
    let longest = "ä".repeat(127);
    for text in
        [" a", "a ", "\u{a0}.", "0", "-", "\"", "\\", "{}", "\u{1f980}", "a\u{200d}b", "null", &longest]
    {
        text::check_name("a text", text).unwrap();
        let user = UserId::new(Uuid::try_parse(USER).unwrap());
        let change = PlanChanged {
            plan_name: PlanName::new("pro").unwrap(),
            effective_at: Month::FIRST.start(),
            monthly_api_limit: None,
            analyze_limit: None,
            price_monthly: Money::from_cents(999),
            currency: Currency::USD,
            previous_plan: None,
            reason: Some(text.into()),
            source_event_id: Some(text.into()),
            actor: Actor::new(ActorKind::Service, text),
        };
        let event = Event {
            id: text.into(),
            source: text.into(),
            subject: Some(user),
            time: Month::FIRST.start(),
            body: Body::PlanChanged(change),
        };
        let mut json = Vec::new();
        encode(&event, &mut json);
        assert_eq!(decode(std::str::from_utf8(&json).unwrap()).unwrap(), event, "{text:?}");
    }
}

#[test]
fn wrong_data_is_told_from_a_wrong_envelope() {
    let cases = [
        (with("\"units\":1", "\"units\":1.5"), "expected u32"),
        (with("\"units\":1", "\"units\":-1"), "expected u32"),
        (with("\"units\":1", "\"units\":99999999999"), "expected u32"),
        (with("\"counted\":true", "\"counted\":\"true\""), "expected a boolean"),
        (with("\"category\":\"analyze\"", "\"category\":\"premium\""), "unknown variant `premium`"),
        (with("\"endpoint\"", "\"path\""), "missing field `endpoint`"),
        (call_data("null"), "invalid type: null"),
        (typed(event_type::PERIOD_CLOSED, "{\"month\":\"2026-13\"}"), "a month is written YYYY-MM"),
        (typed(event_type::LIMIT_REJECTED, "{\"meter\":\"auth\"}"), "unknown variant `auth`"),
        (typed("user.signed_in.v1", "{}"), "missing field `actor`"),
        (typed("user.signed_in.v1", "{\"object_id\":\"x\"}"), "UUID parsing failed"),
        (typed(event_type::AUTH_FAILED, "{\"counts\":[]}"), "missing field `window_start`"),
        (typed(event_type::PLAN_CHANGED, "{\"plan_name\":\"\"}"), "must not be empty"),
    ];
    for (json, expected) in cases {
        let (reason, detail) = reason(&json);
        assert_eq!(reason, "invalid_data", "{json}");
        assert!(detail.contains(expected), "{detail}");
    }
    let gap = |from: u64, to: u64| {
        let data = format!(
            "{{\"seq_from\":{from},\"seq_to\":{to},\"kind\":\"missing\",\"reason\":\"x\",\"actor\":{{\"kind\":\"operator\",\"id\":\"o\"}}}}"
        );
        typed(event_type::GAP_ACCEPTED, &data)
    };
    assert!(decode(&gap(3, 3)).is_ok());
    assert_eq!(reason(&gap(0, 3)).0, "invalid_range");
    assert_eq!(reason(&gap(4, 3)).0, "invalid_range");
}

#[test]
fn an_event_has_a_largest_size() {
    let padded = |bytes: usize| {
        let json = good(1);
        let padding = "x".repeat(bytes - json.len() - ",\"later\":\"\"".len());
        format!("{},\"later\":\"{padding}\"}}", &json[..json.len() - 1])
    };
    assert!(decode(&padded(MAX_EVENT_BYTES)).is_ok());
    let error = decode(&padded(MAX_EVENT_BYTES + 1)).map(Event::into_owned).unwrap_err();
    assert_eq!((error.reason(), error.event_type.as_str()), ("too_large", event_type::API_CALLED));
}

#[test]
fn a_log_with_addresses_in_the_clear_is_of_an_earlier_build() {
    let endpoint = |member: &str| with("\"endpoint\"", &format!("{member},\"endpoint\""));
    for member in ["\"ip_address\":\"::1\"", "\"user_agent\":\"curl\""] {
        let (reason, detail) = reason(&endpoint(member));
        assert_eq!(reason, "earlier_build");
        assert!(detail.contains("start with a new log"), "{detail}");
    }
    assert!(decode(&endpoint("\"ip_address\":null")).is_ok());
}

#[test]
fn what_is_sealed_is_an_object_or_a_string_of_bounded_size() {
    let sealed = |value: &str| with("\"endpoint\"", &format!("\"personal\":{value},\"endpoint\""));
    let long = format!("{{\"v\":\"{}\"}}", "x".repeat(crate::MAX_SEALED_BYTES));
    let string = |length: usize| format!("\"{}\"", "x".repeat(length));
    let long_string = string(crate::MAX_SEALED_BYTES - 1);
    let strings = ["\"\"", "\"ab=\"", "\"a+b\"", "\"a/b\"", "\"a b\"", "\"\\u0041\"", "\"ä\""];
    for bad in ["1", "true", "[]", long.as_str(), long_string.as_str()].into_iter().chain(strings) {
        let (reason, detail) = reason(&sealed(bad));
        assert_eq!(reason, "invalid_data");
        assert!(
            detail
                .contains("a sealed value is a JSON object, or a string of base64url, of at most 9216 bytes"),
            "{detail}"
        );
    }
    assert!(decode(&sealed("{\"deep\": {\"er\": [\"}\"]}}")).is_ok());
    assert!(decode(&sealed("null")).is_ok());
    assert!(decode(&sealed("\"AgJrMQ-_\"")).is_ok());
    assert!(decode(&sealed(&string(crate::MAX_SEALED_BYTES - 2))).is_ok());
}

/// Whatever passes the checks of its fields fits into an event, so an accepted call is never too large.
#[test]
fn the_largest_call_fits() {
    let quotes = |bytes: usize| "\"".repeat(bytes);
    let mut call = ApiCalled::new(quotes(2_048), Category::Analyze);
    call.method = Some("X".repeat(32).into());
    // Sealed, the longest address and user agent are about 4,500 bytes.
    let sealed = format!("{{\"v\":\"{}\"}}", "x".repeat(crate::MAX_SEALED_BYTES - 8));
    call.personal = Some(SealedJson::new(sealed).unwrap());
    call.request_size = Some(i64::MAX.unsigned_abs());
    call.response_size = Some(i64::MAX.unsigned_abs());
    call.actor = Some(Actor::new(ActorKind::Operator, quotes(255)));
    let id = Uuid::from_u128(1);
    (call.key_id, call.reservation_id, call.lease) = (Some(id), Some(id), Some(id));
    call.request = Some(id);
    let mut event = Event::by_api(id, id.into(), Month::LAST.start(), Body::ApiCalled(call));
    (event.id, event.source) = (quotes(255).into(), quotes(255).into());
    let mut json = Vec::new();
    encode(&event, &mut json);
    assert!(json.len() <= MAX_EVENT_BYTES, "{}", json.len());
    assert_eq!(decode(std::str::from_utf8(&json).unwrap()).unwrap(), event);
}

proptest! {
    /// Any bytes give an error or events, never a panic; and the count is that of a JSON parser.
    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        drop(decode_batch(&bytes));
    }

    #[test]
    fn a_batch_is_read_as_a_json_parser_would(
        pieces in prop::collection::vec(prop::sample::select(vec!["[", "]", ",", " ", "{}", "1", "\"a\"", "EVENT", "{", "}"]), 0..8),
    ) {
        let body = pieces.concat().replace("EVENT", &good(1));
        let parsed: Result<Vec<serde::de::IgnoredAny>, _> = serde_json::from_str(&body);
        let read = decode_batch(body.as_bytes());
        prop_assert_eq!(read.as_ref().map(Vec::len).ok(), parsed.map(|values| values.len()).ok(), "{}", body);
    }
}
