//! Reading a frame's body.

use serde_json::value::RawValue;

use crate::error::{EventError, FrameBodyError};
use crate::event::Event;
use crate::scan::{Scanner, is_plain};
use crate::wire;

/// Reads one event.
///
/// # Errors
/// See [`EventError`].
pub fn decode(json: &str) -> Result<Event<'_>, EventError> {
    match Scanner::<false>::new(json, 0).event() {
        Some((event, end)) if end == json.len() => Ok(event),
        _ => wire::read(json),
    }
}

/// Reads a frame's body: one result per event, in order, so that one bad event never hides the others.
///
/// # Errors
/// [`FrameBodyError`] when the body is no JSON array, so that not even the number of its events can be trusted.
pub fn decode_batch(body: &[u8]) -> Result<Vec<Result<Event<'_>, EventError>>, FrameBodyError> {
    let text = std::str::from_utf8(body).map_err(FrameBodyError::NotUtf8)?;
    if is_plain(body) { Batch::<true>::read(text) } else { Batch::<false>::read(text) }
}

/// The events of a frame's body as they stand there, byte for byte, in order.
///
/// # Errors
/// [`FrameBodyError`] as [`decode_batch`].
pub fn raw_events(body: &[u8]) -> Result<Vec<&str>, FrameBodyError> {
    let text = std::str::from_utf8(body).map_err(FrameBodyError::NotUtf8)?;
    let events: Vec<&RawValue> = serde_json::from_str(text)
        .map_err(|source| FrameBodyError::Malformed { at: source.column(), source: Some(source) })?;
    Ok(events.into_iter().map(RawValue::get).collect())
}

/// Smallest size that an event of our own has, for the capacity of a batch's vector.
const TYPICAL_EVENT_BYTES: usize = 350;

struct Batch<'a, const PLAIN: bool> {
    text: &'a str,
    at: usize,
    events: Vec<Result<Event<'a>, EventError>>,
}

impl<'a, const PLAIN: bool> Batch<'a, PLAIN> {
    fn read(text: &'a str) -> Result<Vec<Result<Event<'a>, EventError>>, FrameBodyError> {
        let events = Vec::with_capacity(text.len() / TYPICAL_EVENT_BYTES + 1);
        let mut batch = Self { text, at: 0, events };
        if batch.token() != Some(b'[') {
            return Err(FrameBodyError::NotAnArray);
        }
        batch.at += 1;
        if batch.token() == Some(b']') {
            batch.at += 1;
        } else {
            batch.elements()?;
        }
        match batch.token() {
            None => Ok(batch.events),
            Some(_) => Err(batch.malformed(None)),
        }
    }

    fn elements(&mut self) -> Result<(), FrameBodyError> {
        loop {
            if self.token().is_none() {
                return Err(self.malformed(None));
            }
            self.element()?;
            let separator = self.token();
            self.at += 1;
            match separator {
                Some(b',') => {}
                Some(b']') => return Ok(()),
                _ => {
                    self.at -= 1;
                    return Err(self.malformed(None));
                }
            }
        }
    }

    fn element(&mut self) -> Result<(), FrameBodyError> {
        if let Some((event, end)) = Scanner::<'_, PLAIN>::new(self.text, self.at).event() {
            self.events.push(Ok(event));
            self.at = end;
            return Ok(());
        }
        let json = self.raw_value()?;
        self.events.push(wire::read(json));
        Ok(())
    }

    /// The JSON value that begins here, whatever it is.
    fn raw_value(&mut self) -> Result<&'a str, FrameBodyError> {
        let mut values = serde_json::Deserializer::from_str(&self.text[self.at..]).into_iter::<&RawValue>();
        match values.next() {
            Some(Ok(value)) => {
                self.at += values.byte_offset();
                Ok(value.get())
            }
            Some(Err(source)) => Err(self.malformed(Some(source))),
            None => Err(self.malformed(None)),
        }
    }

    /// The next byte that is not white space, not consumed.
    fn token(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn malformed(&self, source: Option<serde_json::Error>) -> FrameBodyError {
        FrameBodyError::Malformed { at: self.at, source }
    }
}

#[cfg(test)]
mod tests;
