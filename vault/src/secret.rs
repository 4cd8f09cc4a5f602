//! Secrets in text form.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret in text form, such as a user's token. Its bytes are zeroed when it is dropped.
///
/// It can be read from a request, and compared, printed or serialised by nothing: whoever needs the text says so by
/// [`expose`](Self::expose).
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretText(String);

impl SecretText {
    /// Takes the text over; the caller keeps no copy.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself. It must go to its provider and nowhere else: not to a log, an error, an event or an answer.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

/// Written out because the errors of `String`'s own visitor quote the value that they refuse; so do a JSON
/// deserializer's when it is told to expect a string, hence `deserialize_any` above.
struct SecretVisitor;

impl Visitor<'_> for SecretVisitor {
    type Value = SecretText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<SecretText, E> {
        Ok(SecretText(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<SecretText, E> {
        Ok(SecretText(text))
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<SecretText, E> {
        Err(E::custom("invalid type: bytes, expected a string"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<SecretText, E> {
        Err(E::custom("invalid type: number, expected a string"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<SecretText, E> {
        Err(E::custom("invalid type: number, expected a string"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<SecretText, E> {
        Err(E::custom("invalid type: number, expected a string"))
    }
}

#[cfg(test)]
mod tests {
    use super::SecretText;

    #[test]
    fn reads_a_string_and_quotes_nothing_that_it_refuses() {
        let secret: SecretText = serde_json::from_str("\"gh\\u0070_x\"").expect("a string");
        assert_eq!(secret.expose(), "ghp_x");
        for refused in ["8675309", "8675309.5", "-8675309"] {
            let error = serde_json::from_str::<SecretText>(refused).err().expect("not a string").to_string();
            assert!(!error.contains("8675309"), "{error}");
        }
    }
}
