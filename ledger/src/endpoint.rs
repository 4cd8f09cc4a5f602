//! Endpoint and method of a call.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::path::{self, EncodedSlash, PathError};
use crate::text::{self, Invalid};

/// The endpoint of a call as it is recorded: a normalised path, or a name that a rule or an event's type gave.
/// At most [`Endpoint::MAX_BYTES`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Endpoint(String);

impl Endpoint {
    /// The longest endpoint, in bytes, after normalisation.
    pub const MAX_BYTES: usize = path::MAX_BYTES;

    /// Normalises a request's path; see [`path::normalise`].
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn from_path(raw: &str, slashes: EncodedSlash) -> Result<Self, PathError> {
        path::normalise(raw, slashes).map(Self)
    }

    /// The endpoint of an event that names no path: `event:<type>`. No path rule ever matches it, since a path
    /// begins with a slash.
    ///
    /// # Errors
    /// `empty`, `too_long` or `invalid_characters`.
    pub fn for_event_type(event_type: &str) -> Result<Self, Invalid> {
        text::check_name("an event's type", event_type)?;
        Ok(Self(format!("event:{event_type}")))
    }

    /// A name given by configuration, taken as it is.
    ///
    /// # Errors
    /// `empty`, `too_long` or `invalid_characters`.
    pub fn named(name: impl Into<String>) -> Result<Self, Invalid> {
        let name = name.into();
        text::check_text("an endpoint", &name, Self::MAX_BYTES)?;
        Ok(Self(name))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An HTTP method: 1..=32 token characters (RFC 9110 §5.6.2), kept as sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Method(String);

impl Method {
    /// The longest method, in characters.
    pub const MAX_BYTES: usize = 32;

    /// Accepts a method.
    ///
    /// # Errors
    /// `invalid_method`.
    pub fn new(text: impl Into<String>) -> Result<Self, Invalid> {
        let text = text.into();
        check_method(&text)?;
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Whether the text is a method, without making one.
///
/// # Errors
/// `invalid_method`.
pub fn check_method(text: &str) -> Result<(), Invalid> {
    if (1..=Method::MAX_BYTES).contains(&text.len()) && text.bytes().all(is_token) {
        return Ok(());
    }
    Err(Invalid::new("invalid_method", "a method is 1 to 32 token characters, like GET"))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl FromStr for Method {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::new(text)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize_from_str(deserializer)
    }
}

#[cfg(test)]
mod tests;
