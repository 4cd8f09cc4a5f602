//! Extractors whose rejections are [`Problem`](crate::http::problem::Problem)s that name the field.
//!
//! `Json<T>` reads a body of at most 1 MiB, `Query<T>` and `Path<T>` their parts of the URI. What a single field must
//! satisfy is its type's business (`Deserialize` of a newtype); the extractors turn its error into a pointer.

mod encoding;
mod json;
mod media_type;
mod owned;
mod path;
mod query;
mod secret;
mod text;
mod wording;

pub(crate) use encoding::Coding;
pub use json::{Json, MAX_BODY_BYTES, MAX_INGEST_BYTES, parse_json, read_body};
pub(crate) use json::{item_error, read_packed, require_json};
pub(crate) use media_type::MediaType;
pub(crate) use owned::{OwnedListQuery, OwnerQuery};
pub use path::Path;
pub use query::{NoQuery, Query};
pub(crate) use secret::{SecretFields, SecretJson};
pub use text::Text;

use self::wording::{Source, wording};
use crate::http::problem::FieldError;

/// The request header that lets a report reach back to 2000-01-01.
pub(crate) const X_BACKFILL: &str = "x-backfill";

/// Turns serde's message and path into a field error; `pointer` is where the value stands (RFC 6901).
fn field_error(source: Source, mut pointer: String, message: &str) -> FieldError {
    let name = pointer.rsplit('/').next().unwrap_or_default();
    let said = wording(source, name, message);
    if let Some(field) = said.field {
        let suffix = format!("/{}", escape(field));
        if !pointer.ends_with(&suffix) {
            pointer.push_str(&suffix);
        }
    }
    FieldError::at(pointer, said.code, said.detail)
}

/// Escapes one reference token of a JSON pointer.
fn escape(token: &str) -> String {
    printable(token).replace('~', "~0").replace('/', "~1")
}

/// Longest name of a field or parameter that an error repeats, in characters.
const MAX_NAME_CHARS: usize = 100;

/// Echoed input loses what could disturb a terminal, and is cut: an error is never larger than its cause.
fn printable(text: &str) -> String {
    printable_up_to(text, MAX_NAME_CHARS)
}

fn printable_up_to(text: &str, max_chars: usize) -> String {
    text.chars().take(max_chars).map(|c| if ledger::text::is_forbidden(c) { '\u{fffd}' } else { c }).collect()
}
