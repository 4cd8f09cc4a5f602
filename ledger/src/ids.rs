//! Ids: who, which event, and how an id follows from its parts.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Timelike, Utc};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use crate::address;
use crate::clock::Clock;
use crate::text::{self, Invalid};

/// A user's id: random, made by us, and the only name of a user in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(Uuid);

impl UserId {
    /// The user of this UUID.
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID.
    pub const fn get(self) -> Uuid {
        self.0
    }

    /// The user of this UUID, as the outside names one. The nil UUID is none: what has no owner bears it.
    fn of_user(uuid: Uuid) -> Result<Self, Invalid> {
        if uuid.is_nil() {
            return Err(Invalid::new("nil_uuid", "the nil UUID is no user"));
        }
        Ok(Self(uuid))
    }
}

impl From<Uuid> for UserId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl From<UserId> for Uuid {
    fn from(user: UserId) -> Self {
        user.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for UserId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let uuid = parse_uuid(text).ok_or_else(|| Invalid::new("invalid_uuid", "a user id is a UUID"))?;
        Self::of_user(uuid)
    }
}

/// An API key's id: a `UUIDv7` of our own, which stays when its secret is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(Uuid);

impl KeyId {
    /// The key of this UUID.
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID.
    pub const fn get(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The host's own id of a user: 1..=255 bytes of printable text, case-sensitive, neither `me` nor a UUID. An IPv4
/// address mapped into IPv6 is the IPv4 address: both are one client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ExternalId(String);

impl ExternalId {
    /// Accepts an external id.
    ///
    /// # Errors
    /// `empty`, `too_long`, `invalid_characters`, `reserved` (`me`) or `uuid_form` (that would name one of our ids).
    pub fn new(text: impl Into<String>) -> Result<Self, Invalid> {
        let text = text.into();
        text::check_name("an external id", &text)?;
        if text == "me" {
            return Err(Invalid::new("reserved", "the external id \"me\" is reserved"));
        }
        if parse_uuid(&text).is_some() {
            return Err(Invalid::new("uuid_form", "an external id must not have the form of a UUID"));
        }
        Ok(Self(address::unmapped(text)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, owned.
    pub fn into_string(self) -> String {
        self.0
    }

    /// Other texts under which an earlier build may have stored it: those of an IPv4 address mapped into IPv6. None of
    /// what is no IPv4 address.
    pub fn earlier_texts(&self) -> impl Iterator<Item = String> {
        address::mapped(&self.0).into_iter().flatten()
    }

    /// Whether a stored text is this id, also one that an earlier build stored.
    pub fn is_stored_as(&self, text: &str) -> bool {
        self.0 == text || self.earlier_texts().any(|earlier| earlier == text)
    }
}

impl FromStr for ExternalId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::new(text)
    }
}

impl fmt::Display for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ExternalId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize_from_str(deserializer)
    }
}

/// Name of a user as it comes from outside: our id or the host's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UserRef {
    /// Our id.
    Id(UserId),
    /// The host's id.
    External(ExternalId),
}

impl FromStr for UserRef {
    type Err = Invalid;

    /// A text of a UUID's form is our id, anything else the host's.
    ///
    /// # Errors
    /// `nil_uuid`, and those of [`ExternalId::new`].
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match parse_uuid(text) {
            Some(uuid) => UserId::of_user(uuid).map(Self::Id),
            None => ExternalId::new(text).map(Self::External),
        }
    }
}

/// Only the 36-character form counts as a UUID: a host may well use 32 hex digits of its own as an external id.
fn parse_uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

/// Makes ids: from the ledger's clock and a random source seeded by the operating system.
#[derive(Debug, Clone, Default)]
pub struct IdSource {
    clock: Clock,
}

impl IdSource {
    /// An id source on this clock.
    pub fn new(clock: Clock) -> Self {
        Self { clock }
    }

    /// A fresh `UUIDv7` of the present instant, for an event of our own.
    pub fn event_id(&self) -> Uuid {
        event_id_at(self.clock.now())
    }

    /// A fresh random UUID (v4), for a user or a producer.
    pub fn random_id(&self) -> Uuid {
        Builder::from_random_bytes(random_bytes()).into_uuid()
    }
}

/// A fresh `UUIDv7` of this instant. Its 12 bits `rand_a` carry the fraction of the millisecond (RFC 9562 §6.2,
/// method 3), so that ids sort by time and new rows land at the end of an index.
pub fn event_id_at(instant: DateTime<Utc>) -> Uuid {
    let millis = u64::try_from(instant.timestamp_millis()).unwrap_or(0);
    let fraction = u64::from(instant.nanosecond() % 1_000_000) * 4_096 / 1_000_000;
    let mut bytes: [u8; 16] = random_bytes();
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    bytes[6..8].copy_from_slice(&fraction.to_be_bytes()[6..]);
    Builder::from_custom_bytes(bytes).with_version(uuid::Version::SortRand).into_uuid()
}

/// The id that follows from these parts: `UUIDv8` of SHA-256(lp(parts)), where lp writes each part as its length
/// (32 bits, big-endian) and its bytes. The same parts give the same id for ever.
pub fn derived_id(parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        let length =
            u32::try_from(part.len()).expect("a part of an id is bounded by its type, far below 4 GiB");
        hash.update(length.to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one source of randomness for ids; all else is given an IdSource"
)]
fn random_bytes() -> [u8; 16] {
    rand::rng().random()
}

#[cfg(test)]
mod tests;
