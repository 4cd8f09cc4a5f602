//! Answers as they are kept under an idempotency key, and given again.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use store::identity::idempotency::Answer;

use super::{IDEMPOTENCY_REPLAYED, Kept, Provisional};
use crate::http::problem::{PROBLEM_JSON, Problem};

/// Largest answer that is kept, in bytes: a report of 1,000 calls, each accepted under the longest id. What is larger
/// lists errors of many items, and its request is done again when it is sent again: its calls have ids of their own, so
/// that they count once all the same.
const MAX_ANSWER_BYTES: usize = 512 * 1024;

/// Tells whether an answer will be the same however often the request is sent.
fn is_final(response: &Response) -> bool {
    if response.extensions().get::<Provisional>().is_some() {
        return false;
    }
    let status = response.status();
    status.is_success()
        || (status.is_client_error()
            && status != StatusCode::TOO_MANY_REQUESTS
            && status != StatusCode::REQUEST_TIMEOUT)
}

/// The part of the response to keep, if it is final and not too large, and the response itself.
pub(super) async fn final_answer(response: Response) -> Result<(Option<Answer>, Response), axum::Error> {
    if !is_final(&response) {
        return Ok((None, response));
    }
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    let answer = Answer {
        status_code: parts.status.as_u16(),
        headers: to_lines(&parts.headers),
        // A problem's body is written at the very end; its request id will be the retry's.
        body: match (parts.extensions.get::<Problem>(), parts.extensions.get::<Kept>()) {
            (Some(problem), _) => problem.to_record(),
            (None, Some(Kept(kept))) => kept.clone(),
            (None, None) => body.to_vec(),
        },
    };
    let answer = Some(answer).filter(|answer| bytes(answer) <= MAX_ANSWER_BYTES);
    Ok((answer, Response::from_parts(parts, body.into())))
}

pub(super) fn replay(answer: Answer) -> Result<Response, Problem> {
    let status = StatusCode::from_u16(answer.status_code).map_err(|error| Problem::internal(&error))?;
    let headers = from_lines(&answer.headers);
    let is_problem = headers.get(header::CONTENT_TYPE).is_some_and(|kind| *kind == PROBLEM_JSON);
    let mut response = if is_problem {
        let problem = Problem::from_record(status, &answer.body);
        problem.map_err(|error| Problem::internal(&error))?.into_response()
    } else {
        // Without a Content-Type of the framework's choice: a 204 has none.
        let mut response = Response::new(answer.body.into());
        *response.status_mut() = status;
        response
    };
    // What the handler said holds: where the user stood with that call, and the call's position. What the layers around
    // it add (the request's id, CORS) is the retry's own.
    response.headers_mut().extend(headers);
    response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// What is kept of an answer, in bytes.
pub(super) fn bytes(answer: &Answer) -> usize {
    answer.headers.len() + answer.body.len()
}

/// The headers as `name: value` lines. A value that is no text is left out; none of ours is.
fn to_lines(headers: &HeaderMap) -> String {
    let mut lines = String::new();
    for (name, value) in headers.iter().filter(|(name, _)| **name != header::CONTENT_LENGTH) {
        if let Ok(value) = value.to_str() {
            lines.extend([name.as_str(), ": ", value, "\n"]);
        }
    }
    lines
}

/// The counterpart of [`to_lines`].
fn from_lines(lines: &str) -> HeaderMap {
    let headers = lines.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
    });
    headers.collect()
}
