//! Parameters in the path.

use axum::extract::FromRequestParts;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::printable;
use crate::http::problem::{Code, FieldError, Problem};

/// Parameters of the path: 400 when they are not UTF-8, 422 naming the parameter when they are not a `T`.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Path(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => Err(problem(error.kind())),
            Err(error) => Err(Problem::internal(&error)),
        }
    }
}

fn problem(kind: &ErrorKind) -> Problem {
    let (name, detail) = match kind {
        ErrorKind::InvalidUtf8InPathParam { .. } => {
            return Problem::malformed(Code::MalformedUri, "The path is not UTF-8.");
        }
        ErrorKind::ParseErrorAtKey { key, expected_type, .. } => {
            (key.clone(), format!("expected {expected_type}"))
        }
        ErrorKind::DeserializeError { key, message, .. } => (key.clone(), printable(message)),
        ErrorKind::Message(message) => ("path".to_owned(), printable(message)),
        other => ("path".to_owned(), printable(&other.to_string())),
    };
    Problem::validation(vec![FieldError::parameter(name, "invalid", detail)])
}
