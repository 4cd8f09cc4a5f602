//! Values sealed under a user's data key, and the personal data in them.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The largest sealed value, in bytes of its JSON: a token of 4 KiB in hexadecimal digits, and what is around it.
pub const MAX_SEALED_BYTES: usize = 9 * 1024;

/// A value sealed under the user's data key: the JSON that the vault wrote, an object or one string of base64url. It is
/// carried as it stands; only who holds the key can tell whether it is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedJson<'a>(Cow<'a, str>);

/// It is neither a JSON object nor a string of base64url, or it is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value is a JSON object, or a string of base64url, of at most {MAX_SEALED_BYTES} bytes")]
pub struct NotSealed;

impl<'a> SealedJson<'a> {
    /// Takes the value's JSON.
    pub fn new(json: impl Into<Cow<'a, str>>) -> Result<Self, NotSealed> {
        let json = json.into();
        let is_sealed = match json.as_bytes() {
            [b'{', .., b'}'] => true,
            [b'"', text @ .., b'"'] => !text.is_empty() && is_base64url(text),
            _ => false,
        };
        if is_sealed && json.len() <= MAX_SEALED_BYTES { Ok(Self(json)) } else { Err(NotSealed) }
    }

    /// The value's JSON.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, borrowing nothing.
    pub fn into_owned(self) -> SealedJson<'static> {
        SealedJson(Cow::Owned(self.0.into_owned()))
    }
}

/// Whether every byte is of the alphabet of base64url (RFC 4648 §5), padding apart.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "without a branch a byte it compiles to vector instructions"
)]
fn is_base64url(text: &[u8]) -> bool {
    let is_letter = |byte: u8| (byte | 0x20).wrapping_sub(b'a') < 26;
    let is_digit = |byte: u8| byte.wrapping_sub(b'0') < 10;
    let is_good = |byte: u8| is_letter(byte) | is_digit(byte) | (byte == b'-') | (byte == b'_');
    text.iter().fold(true, |good, &byte| good & is_good(byte))
}

impl<'de: 'a, 'a> Deserialize<'de> for SealedJson<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'de RawValue>::deserialize(deserializer)?;
        Self::new(raw.get()).map_err(serde::de::Error::custom)
    }
}

impl Serialize for SealedJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// Personal data of the one behind a call or a token, as far as known. It is sealed in the event, so that destroying
/// the user's data key destroys it in every copy of the log. Its names are short, for nearly every event has it; those
/// that earlier builds wrote are read for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personal<'a> {
    /// The client's address.
    #[serde(borrow, default, rename = "ip", alias = "ip_address", skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<Cow<'a, str>>,
    /// The client's user agent, at most 1,024 bytes.
    #[serde(borrow, default, rename = "ua", alias = "user_agent", skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Cow<'a, str>>,
    /// The user's name for the token, at most 255 bytes.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub token_name: Option<Cow<'a, str>>,
}

impl<'a> Personal<'a> {
    /// Of whoever sent a request.
    pub fn of_client(ip_address: Option<IpAddr>, user_agent: Option<Cow<'a, str>>) -> Self {
        let ip_address = ip_address.map(|address| Cow::Owned(address.to_canonical().to_string()));
        Self { ip_address, user_agent: user_agent.filter(|agent| !agent.is_empty()), token_name: None }
    }
}

impl Personal<'_> {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.ip_address.is_none() && self.user_agent.is_none() && self.token_name.is_none()
    }

    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Personal<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Personal {
            ip_address: self.ip_address.map(owned),
            user_agent: self.user_agent.map(owned),
            token_name: self.token_name.map(owned),
        }
    }

    /// Its JSON, to be sealed.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("our own types have string keys, and a Vec takes every write")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_builds_sealed_is_read() {
        let personal = Personal {
            ip_address: Some("192.0.2.10".into()),
            user_agent: Some("curl/8".into()),
            token_name: Some("ci".into()),
        };
        let json = r#"{"ip":"192.0.2.10","ua":"curl/8","token_name":"ci"}"#;
        assert_eq!(personal.to_json(), json.as_bytes());
        let earlier = r#"{"ip_address":"192.0.2.10","user_agent":"curl/8","token_name":"ci"}"#;
        for json in [json, earlier] {
            assert_eq!(serde_json::from_str::<Personal<'_>>(json).unwrap(), personal, "{json}");
        }
    }

    #[test]
    fn every_byte_is_of_the_alphabet_or_not() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            assert_eq!(is_base64url(&[b'A', byte]), expected, "{byte}");
        }
    }

    #[test]
    fn an_address_mapped_into_ipv6_is_recorded_as_its_ipv4() {
        let recorded =
            |text: &str| Personal::of_client(text.parse().ok(), None).ip_address.map(Cow::into_owned);
        for (text, expected) in [
            ("::ffff:192.0.2.10", "192.0.2.10"),
            ("::ffff:c000:20a", "192.0.2.10"),
            ("192.0.2.10", "192.0.2.10"),
            ("2001:DB8::1", "2001:db8::1"),
        ] {
            assert_eq!(recorded(text).as_deref(), Some(expected), "{text}");
        }
    }
}
