use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::{field_error, printable};
use crate::problem::{Code, FieldError, Problem};

/// The query string: 400 when it is not UTF-8, 422 naming the parameter when it is not a `T`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        if percent_decode_str(query).decode_utf8().is_err() {
            return Err(Problem::malformed(Code::MalformedUri, "The query string is not UTF-8."));
        }
        let pairs = form_urlencoded::parse(query.as_bytes());
        let deserializer = serde_urlencoded::Deserializer::new(pairs);
        serde_path_to_error::deserialize(deserializer).map(Query).map_err(|error| {
            let path = error.path().to_string();
            let known = if path == "." { String::new() } else { format!("/{path}") };
            let named = field_error(known, &error.into_inner().to_string());
            let name = named.pointer.unwrap_or_default();
            let name = printable(name.trim_start_matches('/'));
            Problem::validation(vec![FieldError::parameter(name, named.code, named.detail)])
        })
    }
}
