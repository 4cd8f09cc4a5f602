//! Extractors whose rejections are [`Problem`](crate::http::problem::Problem)s that name the field.
//!
//! `Json<T>` reads a body of at most 1 MiB, `Query<T>` and `Path<T>` their parts of the URI. What a single field must
//! satisfy is its type's business (`Deserialize` of a newtype); the extractors turn its error into a pointer.

mod json;
mod path;
mod query;
mod secret;
mod text;

pub use json::{Json, MAX_BODY_BYTES, MAX_INGEST_BYTES, parse_json, read_body};
pub(crate) use json::{item_error, require_json};
pub use path::Path;
pub use query::{NoQuery, Query};
pub(crate) use secret::{SecretFields, SecretJson};
pub use text::Text;

use crate::http::problem::FieldError;

/// The request header that lets a report reach back to 2000-01-01.
pub(crate) const X_BACKFILL: &str = "x-backfill";

/// Turns serde's message and path into a field error; `pointer` is where the value stands (RFC 6901).
fn field_error(mut pointer: String, message: &str) -> FieldError {
    let quoted = |prefix: &str| message.strip_prefix(prefix).and_then(|rest| rest.split('`').next());
    let (code, name) = if let Some(name) = quoted("unknown field `") {
        ("unknown_field", Some(name))
    } else if let Some(name) = quoted("missing field `") {
        ("missing", Some(name))
    } else if let Some(name) = quoted("duplicate field `") {
        ("duplicate", Some(name))
    } else {
        ("invalid", None)
    };
    if let Some(name) = name {
        let suffix = format!("/{}", escape(name));
        if !pointer.ends_with(&suffix) {
            pointer.push_str(&suffix);
        }
    }
    // serde_json ends its messages with a place in the text, which says nothing to somebody who sent an object.
    let detail = message.split(" at line ").next().unwrap_or(message);
    FieldError::at(pointer, code, printable(detail))
}

/// Escapes one reference token of a JSON pointer.
fn escape(token: &str) -> String {
    printable(token).replace('~', "~0").replace('/', "~1")
}

/// Echoed input loses what could disturb a terminal, and is cut: an error is never larger than its cause.
fn printable(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    text.chars().take(MAX_CHARS).map(|c| if ledger::text::is_forbidden(c) { '\u{fffd}' } else { c }).collect()
}
