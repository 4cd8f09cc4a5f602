//! Tests of the scanner against the JSON parser.

use ledger::Clock;
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::encode::encode;
use crate::wire;

/// Text that a field takes: quotes, backslashes and other scripts, but nothing forbidden.
fn text(max_chars: usize) -> impl Strategy<Value = Cow<'static, str>> {
    let character = prop_oneof![8 => "[ -~]", 1 => "[\"\\\\/]", 1 => "[äß名🦀]"];
    prop::collection::vec(character, 1..=max_chars).prop_map(|characters| Cow::Owned(characters.concat()))
}

/// A string of base64url, or an object of strings and numbers, in which quotes and braces may stand within strings.
fn sealed() -> impl Strategy<Value = SealedJson<'static>> {
    let member =
        (text(8), prop_oneof![text(60).prop_map(|text| json!(text)), any::<u32>().prop_map(|n| json!(n))]);
    let object = prop::collection::vec(member, 1..6).prop_map(|members| {
        let object: serde_json::Map<_, _> =
            members.into_iter().map(|(name, value)| (name.into_owned(), value)).collect();
        serde_json::Value::Object(object).to_string()
    });
    let string = "\"[A-Za-z0-9_-]{1,300}\"";
    prop_oneof![string, object].prop_map(|json| SealedJson::new(json).expect("a sealed value"))
}

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn call() -> impl Strategy<Value = ApiCalled<'static>> {
    let method = option::of("[A-Z]{1,32}".prop_map(Cow::Owned));
    let size = || option::of(0..=i64::MAX.unsigned_abs());
    let actor =
        (prop::sample::select(ActorKind::ALL.to_vec()), text(10)).prop_map(|(kind, id)| Actor { kind, id });
    let client = (option::of(sealed()), size(), size());
    let own = (option::of(actor), option::of(uuid()));
    let ids = (option::of(uuid()), option::of(uuid()), option::of(uuid()), own);
    let result = (option::of(100..=599_u16), option::of(0..=i32::MAX.unsigned_abs()));
    let counting = (1..=1_000_000_u32, prop::sample::select(Category::ALL.to_vec()), any::<bool>());
    (text(30), method, result, client, counting, ids).prop_map(
        |(endpoint, method, result, client, counting, ids)| ApiCalled {
            endpoint,
            method,
            status_code: result.0,
            response_time_ms: result.1,
            personal: client.0,
            request_size: client.1,
            response_size: client.2,
            units: counting.0,
            category: counting.1,
            counted: counting.2,
            key_id: ids.0,
            reservation_id: ids.1,
            lease: ids.2,
            actor: ids.3.0,
            request: ids.3.1,
        },
    )
}

fn event() -> impl Strategy<Value = Event<'static>> {
    // From 2000-01-01 to 9999-12-31.
    let time = (946_684_800_000_000_i64..253_402_300_800_000_000)
        .prop_map(|micros| DateTime::from_timestamp_micros(micros).expect("in range"));
    (text(40), text(40), uuid(), time, call()).prop_map(|(id, source, user, time, call)| Event {
        id,
        source,
        subject: Some(user.into()),
        time,
        body: Body::ApiCalled(call),
    })
}

fn encoded(event: &Event<'_>) -> String {
    let mut json = Vec::new();
    encode(event, &mut json);
    String::from_utf8(json).expect("JSON is UTF-8")
}

/// The scanner's answer to this JSON, in the mode that a batch of it alone would choose.
fn scan(json: &str) -> Option<(Event<'_>, usize)> {
    if is_plain(json.as_bytes()) {
        Scanner::<true>::new(json, 0).event()
    } else {
        Scanner::<false>::new(json, 0).event()
    }
}

#[test]
fn the_common_event_is_scanned() {
    let ids = ledger::IdSource::new(Clock::system());
    let user = UserId::new(ids.random_id());
    let mut call = ApiCalled::new("/api/analyze", Category::Analyze);
    call.method = Some("GET".into());
    let json = encoded(&Event::by_api(ids.event_id(), user, Clock::system().now(), Body::ApiCalled(call)));
    let (event, end) = scan(&json).expect("our own layout");
    assert_eq!(end, json.len());
    assert_eq!(event, wire::read(&json).expect("an event"));
    assert!(matches!(event.id, Cow::Borrowed(_)));
}

/// Every one-byte edit of an event with all fields that the scanner knows.
#[test]
fn no_small_edit_fools_the_scanner() {
    let mut call = ApiCalled::new("/a", Category::Other);
    call.method = Some("GET".into());
    call.status_code = Some(200);
    call.response_time_ms = Some(41);
    call.request_size = Some(0);
    call.response_size = Some(10);
    let id = Uuid::from_u128(7);
    for last in 0..6 {
        let sealed = if last == 2 { r#"{"v":2,"kid":"k","iv":"AA=="}"# } else { r#""AgJrMQ-_""# };
        call.personal = Some(SealedJson::new(sealed).expect("a sealed value"));
        match last {
            1 => call.key_id = Some(id),
            2 => call.reservation_id = Some(id),
            3 => call.lease = Some(id),
            4 => call.actor = Some(Actor::new(ActorKind::Service, "s")),
            5 => call.request = Some(id),
            _ => {}
        }
        let json =
            encoded(&Event::by_api(id, id.into(), Month::FIRST.start(), Body::ApiCalled(call.clone())));
        assert!(scan(&json).is_some());
        for at in 0..json.len() {
            for with in ["", "0", "9", "\"", "\\", " ", "{", "}", ",", "\n", "\u{202e}", "x"] {
                for after in [at, at + 1] {
                    let mut json = json.clone();
                    json.replace_range(at..after, with);
                    if let Some((scanned, end)) = scan(&json) {
                        let read = wire::read(&json[..end]);
                        assert_eq!(read.unwrap_or_else(|error| panic!("{json}: {error}")), scanned, "{json}");
                    }
                }
            }
        }
    }
}

#[test]
fn plain_is_printable_ascii_without_backslash() {
    for byte in 0..=255_u8 {
        let mut bytes = vec![b'a'; 5_000];
        bytes[4_500] = byte;
        assert_eq!(is_plain(&bytes), (0x20..0x7f).contains(&byte) && byte != b'\\', "{byte}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_event_is_read_as_it_was_written(event in event()) {
        let json = encoded(&event);
        prop_assert_eq!(&wire::read(&json).expect("our own event"), &event);
        if let Some((scanned, end)) = scan(&json) {
            prop_assert_eq!(&scanned, &event);
            prop_assert_eq!(end, json.len());
        }
    }

    /// Whatever happens to the bytes: what the scanner accepts, the reader of any JSON accepts as the same event.
    #[test]
    fn the_scanner_accepts_nothing_of_its_own(
        event in event(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8, "[ -~\t\u{0}\u{202e}]"), 1..4),
    ) {
        let mut json = encoded(&event);
        for (index, edit, with) in &edits {
            let at = json.floor_char_boundary(index.index(json.len()));
            let after = json.ceil_char_boundary(at + 1);
            match edit {
                0 => json.replace_range(at..after, with),
                1 => json.replace_range(at..after, ""),
                _ => json.insert_str(at, with),
            }
        }
        if let Some((scanned, end)) = scan(&json) {
            let read = wire::read(&json[..end]);
            prop_assert_eq!(read.expect("the scanner took it"), scanned, "{}", json);
        }
    }

    /// Numbers at and beyond the bounds, times that are none: the same for both.
    #[test]
    fn the_scanner_keeps_the_bounds(
        event in event(),
        number in prop_oneof![any::<u64>(), 0..1_000_u64, Just(1_000_000), Just(1_000_001), Just(i64::MAX.unsigned_abs())],
        field in prop::sample::select(vec!["status_code", "response_time_ms", "request_size", "units"]),
        year in 0..10_000_u32,
    ) {
        let json = encoded(&event);
        let key = format!("\"{field}\":");
        let json = match json.rsplit_once(&key) {
            Some((before, after)) => {
                let rest = after.trim_start_matches(|character: char| character.is_ascii_digit());
                format!("{before}{key}{number}{rest}")
            }
            None => json,
        };
        let json = match json.split_once(",\"time\":\"") {
            Some((before, after)) => format!("{before},\"time\":\"{year:04}{}", &after[4..]),
            None => json,
        };
        if let Some((scanned, _)) = scan(&json) {
            prop_assert_eq!(wire::read(&json).expect("the scanner took it"), scanned, "{}", json);
        }
    }
}
