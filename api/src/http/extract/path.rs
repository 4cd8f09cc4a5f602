//! Parameters in the path.

use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::wording::{Source, wording};
use crate::http::problem::{Code, FieldError, Problem};

/// Parameters of the path: 400 when they are not UTF-8, 422 naming the parameter when they are not a `T`.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Path(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                let only = RawPathParams::from_request_parts(parts, state).await.ok();
                let only = only.and_then(|params| params.iter().next().map(|(name, _)| name.to_owned()));
                Err(problem(error.kind(), only))
            }
            Err(error) => Err(Problem::internal(&error)),
        }
    }
}

/// `only` is the name of the path's parameter where there is one alone: axum does not name it then.
fn problem(kind: &ErrorKind, only: Option<String>) -> Problem {
    let only = || only.unwrap_or_else(|| "path".to_owned());
    let (name, message) = match kind {
        ErrorKind::InvalidUtf8InPathParam { .. } => {
            return Problem::malformed(Code::MalformedUri, "The path is not UTF-8.");
        }
        ErrorKind::ParseErrorAtKey { key, expected_type, .. } => {
            (key.clone(), format!("invalid value: text, expected {expected_type}"))
        }
        ErrorKind::DeserializeError { key, message, .. } => (key.clone(), message.clone()),
        ErrorKind::ParseError { expected_type, .. } => {
            (only(), format!("invalid value: text, expected {expected_type}"))
        }
        ErrorKind::Message(message) => (only(), message.clone()),
        other => (only(), other.to_string()),
    };
    let detail = wording(Source::Parameters, &name, &message).detail;
    Problem::validation(vec![FieldError::parameter(name, "invalid", detail)])
}
