//! What an answer of the api must be, and what it names.

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::Answer;

/// A problem as it must be: the media type, all members, the request's own id. Answers the body.
#[track_caller]
pub(crate) fn assert_problem(answer: &Answer, status: u16, code: &str) -> Value {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{text}");
    let body = answer.json().expect("a problem is JSON");
    assert_eq!(body["code"], code, "{text}");
    assert_eq!(body["status"], status, "{text}");
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"), "{text}");
    for member in ["type", "title", "detail", "instance"] {
        assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "no {member}: {text}");
    }
    body
}

/// The pointers and parameters that a 422 names.
pub(crate) fn named(body: &Value) -> Vec<String> {
    let errors = body["errors"].as_array().cloned().unwrap_or_default();
    let name = |error: &Value| error["pointer"].as_str().or(error["parameter"].as_str()).map(str::to_owned);
    errors.iter().filter_map(name).collect()
}

/// The `user_id` of an account's JSON.
pub(crate) fn user_id(answer: &Answer) -> Result<String> {
    Ok(answer.json()?["user_id"].as_str().context("no user_id")?.to_owned())
}
