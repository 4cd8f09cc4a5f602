//! Keys and rows that the tests share.

use uuid::Uuid;
use vault::{DataKey, DekId, KeyRing, OsEntropy, RootKey, Sealed, SecretText};

/// A token of 40 bytes.
pub(crate) const TOKEN: &str = "ghp_0123456789abcdef0123456789abcdefwxyz";

/// A user with an open data key.
pub(crate) struct Wrapped {
    pub(crate) ring: KeyRing,
    pub(crate) user: Uuid,
    pub(crate) token_id: Uuid,
    pub(crate) key: DataKey,
    pub(crate) sealed_key: Sealed,
}

pub(crate) fn wrapped() -> Wrapped {
    let ring = KeyRing::new("k1".parse().expect("a name"), &root("a"));
    let (user, token_id) = (uuid(1), uuid(2));
    let (key, sealed_key) = ring.new_data_key(user, DekId::first(), &OsEntropy).expect("random bytes");
    Wrapped { ring, user, token_id, key, sealed_key }
}

pub(crate) fn root(digit: &str) -> RootKey {
    RootKey::parse(&digit.repeat(64)).expect("64 digits")
}

pub(crate) fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

pub(crate) fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(0x0192_f3a4_5b6c_7d8e_9f00_0000_0000_0000 + number)
}

/// The same row with one member rewritten, as someone with the database in hand could.
pub(crate) fn with_member(sealed: &Sealed, member: &str, value: &str) -> Sealed {
    let mut row: serde_json::Value = serde_json::from_str(&sealed.to_json()).expect("JSON");
    row[member] = value.into();
    Sealed::from_json(&row.to_string()).expect("well-formed")
}
