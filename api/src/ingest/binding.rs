//! CloudEvents' binding to HTTP (1.0.2): in which mode a request carries its events, and attributes in headers.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName, StatusCode};
use percent_encoding::percent_decode;

use crate::http::extract::MediaType;
use crate::http::problem::{Code, FieldError, Problem};

/// Form in which a request carries its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `application/json`: an object or an array; what is no business of a call may be left out.
    Plain,
    /// `application/cloudevents+json`: one event.
    Single,
    /// `application/cloudevents-batch+json`: an array of events.
    Batch,
}

/// Place in a request that carries its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// Structured or batched mode, and plain JSON.
    Body(Form),
    /// Binary mode: attributes are headers, the body is `data`.
    Headers,
}

/// Reads the mode from the Content-Type (§3). Of media types that are not CloudEvents' own, the headers tell whether
/// the body is an event's data; such data is JSON where nothing says what it is.
pub(super) fn carrier(headers: &HeaderMap) -> Result<Carrier, Problem> {
    let is_binary = is_binary(headers);
    let kind = MediaType::of(headers)?.unwrap_or(MediaType::new(""));
    if !kind.is_unicode() {
        Err(unsupported(is_binary))
    } else if kind.is("application/cloudevents+json") {
        Ok(Carrier::Body(Form::Single))
    } else if kind.is("application/cloudevents-batch+json") {
        Ok(Carrier::Body(Form::Batch))
    } else if is_binary && !is_event_format(kind.essence()) && (kind.is("") || kind.is_json()) {
        Ok(Carrier::Headers)
    } else if !is_binary && kind.is("application/json") {
        Ok(Carrier::Body(Form::Plain))
    } else {
        Err(unsupported(is_binary))
    }
}

fn unsupported(is_binary: bool) -> Problem {
    let detail = if is_binary {
        "An event's data must be JSON in UTF-8: send it as application/json, or as a type that ends in +json."
    } else {
        "Send application/cloudevents+json, application/cloudevents-batch+json or application/json, in UTF-8."
    };
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::UnsupportedMediaType, detail)
}

/// Tells whether the request carries an event in binary mode.
fn is_binary(headers: &HeaderMap) -> bool {
    headers.contains_key("ce-specversion") || headers.contains_key("ce-id")
}

/// `application/cloudevents…`: an event format, ours or not.
fn is_event_format(essence: &str) -> bool {
    const PREFIX: &str = "application/cloudevents";
    essence.get(..PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX))
}

/// The attribute in the header `name`: double quotes are taken off, then percent-encoding, once (§3.1.3.2). What was
/// encoded must be UTF-8; a `%` that begins no encoded byte stands for itself, as senders without encoding mean it.
pub(super) fn attribute(
    headers: &HeaderMap,
    name: &'static str,
) -> Result<Option<Cow<'static, str>>, FieldError> {
    let wrong = |detail: &'static str| FieldError::parameter(name, "invalid", detail);
    let mut values = headers.get_all(HeaderName::from_static(name)).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong("the header must not be repeated"));
    }
    let bytes = unquoted(value.as_bytes())
        .ok_or_else(|| wrong("the header has a double quote without its counterpart; encode it as %22"))?;
    let text = percent_decode(&bytes).decode_utf8();
    let text = text.map_err(|_| wrong("the header must be percent-encoded UTF-8"))?;
    Ok(Some(Cow::Owned(text.into_owned())))
}

/// Takes quoted-strings apart (RFC 9110, §5.6.4): the quotes go, and within them a backslash before a character. None
/// when a quote is not closed.
fn unquoted(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !value.contains(&b'"') {
        return Some(Cow::Borrowed(value));
    }
    let mut plain = Vec::with_capacity(value.len());
    let mut is_quoted = false;
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\\' if is_quoted => plain.push(bytes.next()?),
            other => plain.push(other),
        }
    }
    (!is_quoted).then_some(Cow::Owned(plain))
}

#[cfg(test)]
mod tests;
