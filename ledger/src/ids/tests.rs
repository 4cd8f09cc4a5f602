//! Tests of ids.

use std::collections::HashSet;

use uuid::Variant;

use super::*;
use crate::month::Month;

/// Computed by Python's hashlib from the definition, not by this code.
#[test]
fn derived_ids_never_change() {
    let user: &[u8] = b"018f0000-0000-7000-8000-000000000001";
    let known: [(&[&[u8]], &str); 6] = [
        (&[], "e3b0c442-98fc-8c14-9afb-f4c8996fb924"),
        (&[b""], "df3f6198-04a9-8fdb-8057-192dc43dd748"),
        (&[b"a", b"bc"], "b534ce16-ac9c-8b36-823f-39a395ce8e0e"),
        (&[b"ab", b"c"], "f2939f90-3016-85bb-a9b1-e4a61cdbd376"),
        (&[user, b"api", b"evt-1"], "5fc157f8-31b1-85b2-b12a-2ab4b00f5c74"),
        (
            &[user, b"urn:usage-ledger:import", "zeile-größe-1".as_bytes()],
            "7b87c7df-5f9d-8da4-b521-0405eca5ca9a",
        ),
    ];
    for (parts, expected) in known {
        assert_eq!(derived_id(parts).to_string(), expected);
    }
}

#[test]
fn an_event_id_is_a_v7_of_its_instant() {
    let instant = Month::new(2026, 11).unwrap().start() + chrono::Duration::microseconds(1_999);
    let id = event_id_at(instant);
    assert_eq!((id.get_version_num(), id.get_variant()), (7, Variant::RFC4122));
    let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
    assert_eq!(i64::try_from(seconds).unwrap(), instant.timestamp());
    assert_eq!(nanos, 1_000_000);
    // 0.999 ms are 4091 of 4096 parts of a millisecond.
    assert_eq!(id.as_u128() >> 64 & 0xfff, 4_091);
    assert!(event_id_at(instant + chrono::Duration::microseconds(1)) > id);
}

#[test]
fn ids_differ() {
    let ids = IdSource::new(Clock::system());
    let events: HashSet<Uuid> = (0..10_000).map(|_| ids.event_id()).collect();
    let randoms: HashSet<Uuid> = (0..10_000).map(|_| ids.random_id()).collect();
    assert_eq!((events.len(), randoms.len()), (10_000, 10_000));
    assert!(randoms.iter().all(|id| id.get_version_num() == 4 && id.get_variant() == Variant::RFC4122));
}

#[test]
fn a_uuid_is_ours_and_anything_else_the_hosts() {
    let uuid = "018f0000-0000-7000-8000-00000000000a";
    let ours = UserRef::Id(uuid.parse().unwrap());
    assert_eq!(uuid.parse(), Ok(ours.clone()));
    assert_eq!(uuid.to_uppercase().parse(), Ok(ours));
    for external in [
        "018f0000000070008000000000000001",
        "{018f0000-0000-7000-8000-000000000001}",
        "alice",
        "Me",
        "a b",
        "192.0.2.1",
    ] {
        assert_eq!(external.parse(), Ok(UserRef::External(ExternalId::new(external).unwrap())), "{external}");
    }
}

#[test]
fn external_ids_are_bounded_text() {
    let code = |text: &str| ExternalId::new(text).unwrap_err().code;
    assert_eq!(code("me"), "reserved");
    assert_eq!(code(""), "empty");
    assert_eq!(code(&"x".repeat(256)), "too_long");
    assert_eq!(code("a\0"), "invalid_characters");
    assert_eq!(code("018F0000-0000-7000-8000-000000000001"), "uuid_form");
    assert_eq!("me".parse::<UserRef>().unwrap_err().code, "reserved");
    assert_eq!("x".parse::<UserId>().unwrap_err().code, "invalid_uuid");
}

#[test]
fn the_nil_uuid_is_no_user() {
    for nil in ["00000000-0000-0000-0000-000000000000", &Uuid::nil().to_string().to_uppercase()] {
        assert_eq!(nil.parse::<UserRef>().unwrap_err().code, "nil_uuid");
        assert_eq!(nil.parse::<UserId>().unwrap_err().code, "nil_uuid");
        assert_eq!(ExternalId::new(nil).unwrap_err().code, "uuid_form");
    }
    assert!("00000000-0000-0000-0000-000000000001".parse::<UserRef>().is_ok());
    assert!("ffffffff-ffff-ffff-ffff-ffffffffffff".parse::<UserRef>().is_ok());
}

#[test]
fn a_mapped_address_names_the_user_of_its_ipv4_address() {
    let user = |text: &str| text.parse::<UserRef>().unwrap();
    for mapped in ["::ffff:192.0.2.1", "::FFFF:c000:201", "0:0:0:0:0:ffff:192.0.2.1"] {
        assert_eq!(user(mapped), user("192.0.2.1"), "{mapped}");
        assert_eq!(ExternalId::new(mapped).unwrap().as_str(), "192.0.2.1");
    }
    assert_ne!(user("::192.0.2.1"), user("192.0.2.1"));
}
