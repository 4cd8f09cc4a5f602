//! JSON bodies that hold secrets, whose errors repeat nothing of them.

use axum::extract::{FromRequest, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::json::{parse_json, read_body, require_json};
use crate::http::problem::{FieldError, Problem};

/// Largest body that holds a secret, in bytes: a token of 4 KiB, escaped, and what is around it.
const MAX_SECRET_BODY_BYTES: usize = 16 * 1024;

/// The fields of a body that holds a secret.
pub(crate) trait SecretFields: DeserializeOwned {
    /// Their names.
    const NAMES: &'static [&'static str];

    /// Form that the field of this name must have, for people.
    fn must_be(name: &str) -> &'static str;
}

/// A JSON body with a secret in it, which no error repeats: neither a value, nor a name that is none of the body's, for
/// either may be the secret in the wrong place.
pub(crate) struct SecretJson<T> {
    /// The body.
    pub(crate) body: T,
    /// The request's head.
    pub(crate) parts: Parts,
}

impl<T: SecretFields, S: Send + Sync> FromRequest<S> for SecretJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let bytes = read_body(&parts.headers, body, MAX_SECRET_BODY_BYTES).await?;
        let body = parse_json(&bytes).map_err(|problem| silent::<T>(problem))?;
        Ok(Self { body, parts })
    }
}

/// The same refusal, which repeats nothing of the body. A body that is no JSON is told by line and column alone
/// already.
fn silent<T: SecretFields>(problem: Problem) -> Problem {
    let [error] = problem.errors() else { return problem };
    let names = T::NAMES.join(", ");
    let pointer = error.pointer.as_deref().unwrap_or_default();
    let known = T::NAMES.iter().copied().find(|name| pointer.strip_prefix('/') == Some(name));
    Problem::from(match (error.code.as_ref(), known) {
        ("missing", Some(name)) => FieldError::at(pointer, "missing", format!("the field {name} is missing")),
        ("duplicate", Some(name)) => {
            FieldError::at(pointer, "duplicate", format!("the field {name} is there twice"))
        }
        (_, Some(name)) => FieldError::at(pointer, "invalid", T::must_be(name)),
        ("unknown_field", None) => {
            FieldError::at("", "unknown_field", format!("there is another field than {names}"))
        }
        (_, None) => FieldError::at("", "invalid", format!("the body is an object of {names}")),
    })
}
