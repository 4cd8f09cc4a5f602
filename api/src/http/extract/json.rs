//! JSON bodies.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_path_to_error::Segment;
use std::time::Duration;

use super::encoding::require_identity;
use super::media_type::MediaType;
use super::wording::{Source, wrong_kind};
use super::{escape, field_error};
use crate::http::problem::{Code, FieldError, Problem};

/// Largest body of every endpoint but ingest, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Largest body of ingest, in bytes.
pub const MAX_INGEST_BYTES: usize = 8 * 1024 * 1024;
/// A body that is still incomplete then is given up with 408: below the whole request's limit of 30 s.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// A JSON body: 415 for another Content-Type or any Content-Encoding, 413 beyond 1 MiB, 400 when it is not JSON, 422
/// naming the field when it is not a `T`. As an answer it writes `T`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let bytes = read_body(&parts.headers, body, MAX_BODY_BYTES).await?;
        parse_json(&bytes).map(Json)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => Problem::internal(&error).into_response(),
        }
    }
}

/// 415 unless the Content-Type is one of JSON in UTF-8; 400 when there are several.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    if MediaType::of(headers)?.is_some_and(|kind| kind.is_json() && kind.is_unicode()) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::UnsupportedMediaType,
        "Send the body as application/json, in UTF-8.",
    ))
}

/// Reads a body of at most `limit_bytes`: 413 beyond that, 408 when it does not arrive in time, 415 when it is packed.
pub async fn read_body(headers: &HeaderMap, body: Body, limit_bytes: usize) -> Result<Bytes, Problem> {
    require_identity(headers)?;
    read_packed(headers, body, limit_bytes).await
}

/// [`read_body`] of one that may be packed, which is left as it is.
pub(crate) async fn read_packed(
    headers: &HeaderMap,
    body: Body,
    limit_bytes: usize,
) -> Result<Bytes, Problem> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit_bytes as u64) {
        return Err(too_large(limit_bytes));
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit_bytes).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit_bytes)),
        Ok(Err(_)) => Err(Problem::malformed(Code::MalformedJson, "The body ended before it was complete.")),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            Code::RequestTimeout,
            "The body did not arrive in time.",
        )),
    }
}

fn too_large(limit_bytes: usize) -> Problem {
    Problem::too_large(format!("The body is larger than {limit_bytes} bytes."))
}

/// Parses a body: 400 when it is not JSON, 422 naming the field when it is not a `T`.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        let inner = error.into_inner();
        if inner.is_data() {
            Problem::validation(vec![field_error(Source::Body, pointer, &inner.to_string())])
        } else if is_json(bytes) {
            // serde_json calls it a mistake of syntax when an enum's name is no text, or a number is too large.
            let detail = wrong_kind(Source::Body, pointer.rsplit('/').next().unwrap_or_default());
            Problem::validation(vec![FieldError::at(pointer, "invalid", detail)])
        } else {
            malformed(&inner)
        }
    })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// Error of an item that was read by itself, at its place below `prefix`.
pub(crate) fn item_error(prefix: &str, error: serde_path_to_error::Error<serde_json::Error>) -> FieldError {
    let pointer = format!("{prefix}{}", pointer(error.path()));
    field_error(Source::Body, pointer, &error.into_inner().to_string())
}

fn malformed(error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    Problem::malformed(Code::MalformedJson, format!("The body is not JSON (line {line}, column {column})."))
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                pointer.push('/');
                pointer.push_str(&index.to_string());
            }
            Segment::Map { key } => {
                pointer.push('/');
                pointer.push_str(&escape(key));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}
