//! Text of a bounded length.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

/// Text of 1..=`MAX_BYTES` bytes without control or bidi-override characters, of which something can be seen: what ids,
/// names, addresses and reasons are. One of blanks alone is what a missing variable leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Text<const MAX_BYTES: usize>(String);

impl<const MAX_BYTES: usize> Text<MAX_BYTES> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl<'de, const MAX_BYTES: usize> Deserialize<'de> for Text<MAX_BYTES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<const MAX_BYTES: usize>;
        impl<const MAX_BYTES: usize> Visitor<'_> for TextVisitor<MAX_BYTES> {
            type Value = Text<MAX_BYTES>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "text of 1 to {MAX_BYTES} bytes without control characters")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                if text.is_empty() || text.len() > MAX_BYTES {
                    return Err(E::invalid_length(text.len(), &self));
                }
                if text.chars().any(ledger::text::is_forbidden) {
                    return Err(E::custom(
                        "control and bidirectional override characters are not allowed in text",
                    ));
                }
                if ledger::text::is_blank(text) {
                    return Err(E::custom("text of blanks alone is not allowed: nothing of it can be seen"));
                }
                Ok(Text(text.to_owned()))
            }
        }
        deserializer.deserialize_str(TextVisitor::<MAX_BYTES>)
    }
}

impl<const MAX_BYTES: usize> Serialize for Text<MAX_BYTES> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<const MAX_BYTES: usize> utoipa::PartialSchema for Text<MAX_BYTES> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .min_length(Some(1))
            .max_length(Some(MAX_BYTES))
            .into()
    }
}

impl<const MAX_BYTES: usize> utoipa::ToSchema for Text<MAX_BYTES> {}
