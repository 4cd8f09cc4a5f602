//! Reading a frame's body.

use serde_json::value::RawValue;

use crate::error::{EventError, FrameBodyError};
use crate::event::Event;
use crate::wire;

/// Reads one event.
///
/// # Errors
/// See [`EventError`].
pub fn decode(json: &str) -> Result<Event<'_>, EventError> {
    wire::read(json)
}

/// Reads a frame's body: one result per event, in order, so that one bad event never hides the others.
///
/// # Errors
/// [`FrameBodyError`] when the body is no JSON array, so that not even the number of its events can be trusted.
pub fn decode_batch(body: &[u8]) -> Result<Vec<Result<Event<'_>, EventError>>, FrameBodyError> {
    let text = std::str::from_utf8(body).map_err(FrameBodyError::NotUtf8)?;
    let raw: Vec<&RawValue> = serde_json::from_str(text)
        .map_err(|source| FrameBodyError::Malformed { at: 0, source: Some(source) })?;
    Ok(raw.into_iter().map(|event| decode(event.get())).collect())
}
