//! Parameters in the query.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::wording::{Source, names};
use super::{field_error, printable};
use crate::http::problem::{Code, FieldError, Problem};

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
            let message = error.into_inner().to_string();
            let named = field_error(Source::Parameters, known, &message);
            let name = named.pointer.unwrap_or_default();
            let name = printable(name.trim_start_matches('/'));
            Problem::validation(vec![if named.code == "unknown_field" && !is_a_name(&name) {
                let known = message.rsplit_once("`, expected ").map_or("", |(_, known)| known);
                let known = if known.is_empty() { "none".to_owned() } else { names(known) };
                FieldError::at(
                    "",
                    named.code,
                    format!("there is another parameter than those known: {known}"),
                )
            } else {
                FieldError::parameter(name, named.code, named.detail)
            }])
        })
    }
}

/// No parameters at all, for a path where one would be passed over in silence that decides what happens elsewhere.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoQuery {}

/// Tells whether it looks like a parameter that was mistyped. Anything else may be a secret in the wrong place, which
/// an error does not repeat.
fn is_a_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Page {
        #[expect(dead_code, reason = "only that it is known matters")]
        limit: Option<u32>,
        #[expect(dead_code, reason = "likewise")]
        cursor: Option<String>,
    }

    #[tokio::test]
    async fn where_there_is_no_parameter_each_is_refused() {
        for (query, fits) in [("", true), ("?", true), ("?user_id=bob", false), ("?x", false), ("?&=", false)]
        {
            let uri = format!("/{query}");
            let (mut parts, ()) = Request::builder().uri(uri).body(()).unwrap().into_parts();
            let read = Query::<NoQuery>::from_request_parts(&mut parts, &()).await;
            assert_eq!(
                read.map(drop).map_err(|refused| refused.status().as_u16()).err(),
                (!fits).then_some(422)
            );
        }
    }

    #[tokio::test]
    async fn a_name_that_may_be_a_secret_is_not_repeated() {
        for (query, shown) in [("montth=1", true), ("ghp_q7Rz0TkW2mXv9LbN", false), ("sk-a-b=1", false)] {
            let uri = format!("/?limit=1&{query}");
            let (mut parts, ()) = Request::builder().uri(uri).body(()).unwrap().into_parts();
            let refused = Query::<Page>::from_request_parts(&mut parts, &()).await.unwrap_err();
            let [error] = refused.errors() else { panic!("{refused:?}") };
            assert_eq!(error.code, "unknown_field");
            assert!(error.detail.ends_with("limit, cursor"), "{error:?}");
            let name = query.split('=').next().unwrap();
            assert_eq!(format!("{refused:?}").contains(name), shown, "{refused:?}");
        }
    }
}
