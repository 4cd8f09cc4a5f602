//! Normalisation of paths, so that no spelling of a path changes what a call is counted as.
//!
//! RFC 3986 §6.2.2 with the servers' common habit of merging slashes first (nginx, Go, Envoy), so that `/a//../b` is
//! `/b`. What servers read in different ways is refused rather than guessed at.

use std::borrow::Cow;
use std::str::FromStr;

use crate::text::{self, Invalid};

/// The longest path, in bytes, after normalisation.
pub(crate) const MAX_BYTES: usize = 2_048;

/// Treatment of an escaped slash (`%2F`), of which some servers make a slash and others a character (`ENCODED_SLASH`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EncodedSlash {
    /// The path is refused.
    #[default]
    Refuse,
    /// It is an ordinary character of its segment and never decoded, as GitLab and npm have it.
    Keep,
}

impl FromStr for EncodedSlash {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "keep" => Ok(Self::Keep),
            _ => Err(Invalid::new("invalid", "an escaped slash is treated by refuse or keep")),
        }
    }
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It neither begins with a slash nor is an absolute http(s) or ws(s) URI.
    #[error("a path must begin with / or be an absolute http URI")]
    NotAPath,
    /// It is longer than 2,048 bytes when normalised.
    #[error("a path must be at most 2048 bytes")]
    TooLong,
    /// It holds a control or bidi-override character, or an escaped control character other than a tab (which real
    /// logs hold, and which no server takes for anything but itself).
    #[error("a path must not contain control characters")]
    ControlCharacter,
    /// It holds a backslash, as it is or escaped: some servers take it for a slash.
    #[error("a path must not contain a backslash or %5c")]
    Backslash,
    /// It holds an escaped slash: some servers take it for a slash.
    #[error("a path must not contain %2f")]
    EncodedSlash,
    /// It holds a fragment's sign as it is: no client sends one, and some servers cut there, others take it for a
    /// character. Behind the path, in the query, it changes nothing.
    #[error("a path must not contain #: escape it as %23")]
    Fragment,
    /// A percent sign is not followed by two hexadecimal digits.
    #[error("a percent sign in a path must be followed by two hexadecimal digits")]
    InvalidEscape,
    /// Its escapes encode a character in more bytes than UTF-8 allows (`%c0%ae` for a dot).
    #[error("a path must not contain overlong UTF-8 escapes")]
    OverlongEncoding,
    /// A dot segment has parameters (`..;x`): servers that drop parameters first walk up, others do not.
    #[error("a dot segment in a path must not have parameters")]
    DotSegmentWithParameters,
    /// A dot segment stands beside a kept `%2F` (`a%2F..%2Fb`): servers that decode first walk up.
    #[error("a path must not contain a dot segment beside %2f")]
    DotSegmentBesideEncodedSlash,
}

impl PathError {
    /// Stable code for the outside.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotAPath => "not_a_path",
            Self::TooLong => "too_long",
            Self::ControlCharacter => "invalid_characters",
            Self::Backslash => "backslash_in_path",
            Self::EncodedSlash => "encoded_slash_in_path",
            Self::Fragment => "fragment_in_path",
            Self::InvalidEscape => "invalid_escape",
            Self::OverlongEncoding => "overlong_encoding",
            Self::DotSegmentWithParameters => "dot_segment_with_parameters",
            Self::DotSegmentBesideEncodedSlash => "dot_segment_beside_encoded_slash",
        }
    }
}

impl From<PathError> for Invalid {
    fn from(error: PathError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// Normalises the target of a request: cuts the query, takes the path of an absolute URI, merges slashes, removes dot
/// segments, decodes escapes of unreserved characters, escapes what must be, writes escapes in capitals.
/// Normalising twice changes nothing. `*` (of `OPTIONS *`) stays as it is.
///
/// # Errors
/// See [`PathError`].
pub fn normalise(target: &str, slashes: EncodedSlash) -> Result<String, PathError> {
    if target == "*" {
        return Ok(target.to_owned());
    }
    let from_path = if target.starts_with('/') { target } else { without_authority(target)? };
    let path = from_path.split('?').next().unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    let normal = if is_normal(path.as_bytes()) { path.to_owned() } else { rewrite(path, slashes)? };
    if normal.len() > MAX_BYTES {
        return Err(PathError::TooLong);
    }
    Ok(normal)
}

/// Byte that stands in a key for an escaped slash, which is no slash: no path holds this one, escaped or not.
const ENCODED_SLASH: u8 = 0;

/// Form of a normalised path that rules are matched against: without segment parameters (`;x`) and with all escapes
/// decoded once, as routers see it, but for a kept `%2F`. Not for display.
pub fn match_key(endpoint: &str) -> Cow<'_, [u8]> {
    let bytes = endpoint.as_bytes();
    if !endpoint.starts_with('/') || !bytes.iter().any(|byte| matches!(byte, b'%' | b';')) {
        return Cow::Borrowed(bytes);
    }
    let mut key = Vec::with_capacity(bytes.len());
    let mut segments = bytes[1..].split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        if !name.is_empty() || segments.peek().is_none() {
            key.push(b'/');
            let decoded = percent_encoding::percent_decode(name);
            // Only an escape decodes to a slash: the segments were cut at the others.
            key.extend(decoded.map(|byte| if byte == b'/' { ENCODED_SLASH } else { byte }));
        }
    }
    Cow::Owned(key)
}

/// The key as whoever ignores case sees it. ASCII letters stay as they are, for they are compared without regard to
/// case; other letters become those that they are the capital or small form of, in whatever way (`ſ` is an `s`).
pub(crate) fn fold(key: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    if key.is_ascii() {
        return key;
    }
    let mut folded = Vec::with_capacity(key.len());
    for chunk in key.utf8_chunks() {
        let folding = chunk.valid().chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase);
        let mut buffer = [0; 4];
        for letter in folding {
            folded.extend_from_slice(letter.encode_utf8(&mut buffer).as_bytes());
        }
        folded.extend_from_slice(chunk.invalid());
    }
    Cow::Owned(folded)
}

fn without_authority(target: &str) -> Result<&str, PathError> {
    let (scheme, rest) = target.split_once("://").ok_or(PathError::NotAPath)?;
    if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(PathError::NotAPath);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() {
        return Err(PathError::NotAPath);
    }
    if authority.contains('#') {
        return Err(PathError::Fragment);
    }
    if authority.contains('\\') {
        return Err(PathError::Backslash);
    }
    if text::has_forbidden(authority) {
        return Err(PathError::ControlCharacter);
    }
    Ok(path)
}

/// Characters that stand in a segment as they are: unreserved, sub-delims, `:` and `@` (RFC 3986 §3.3).
const fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether nothing has to be done: the common case, decided in one pass.
fn is_normal(path: &[u8]) -> bool {
    let mut after_slash = false;
    for &byte in path {
        let suspicious = (byte == b'/' || byte == b'.') && after_slash;
        if suspicious || !(byte == b'/' || is_pchar(byte)) {
            return false;
        }
        after_slash = byte == b'/';
    }
    true
}

fn rewrite(path: &str, slashes: EncodedSlash) -> Result<String, PathError> {
    let mut segments: Vec<String> = Vec::new();
    let mut ends_with_slash = false;
    for raw in path.split('/').skip(1) {
        let segment = rewrite_segment(raw, slashes)?;
        ends_with_slash = matches!(segment.as_str(), "" | "." | "..");
        match segment.as_str() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(path.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_with_slash || segments.is_empty() {
        normal.push('/');
    }
    Ok(normal)
}

fn rewrite_segment(raw: &str, slashes: EncodedSlash) -> Result<String, PathError> {
    if raw.chars().any(text::is_forbidden) {
        return Err(PathError::ControlCharacter);
    }
    let mut segment = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = bytes.next().and_then(hex_digit).ok_or(PathError::InvalidEscape)?;
                let low = bytes.next().and_then(hex_digit).ok_or(PathError::InvalidEscape)?;
                push_escaped(&mut segment, high * 16 + low, slashes)?;
            }
            b'\\' => return Err(PathError::Backslash),
            b'#' => return Err(PathError::Fragment),
            _ if is_pchar(byte) => segment.push(char::from(byte)),
            _ => push_escape(&mut segment, byte),
        }
    }
    refuse_ambiguous(&segment)?;
    Ok(segment)
}

fn push_escaped(segment: &mut String, byte: u8, slashes: EncodedSlash) -> Result<(), PathError> {
    match byte {
        b'/' if slashes == EncodedSlash::Refuse => return Err(PathError::EncodedSlash),
        b'\\' => return Err(PathError::Backslash),
        b'\t' => push_escape(segment, byte),
        _ if byte.is_ascii_control() => return Err(PathError::ControlCharacter),
        _ if is_unreserved(byte) => segment.push(char::from(byte)),
        _ => push_escape(segment, byte),
    }
    Ok(())
}

fn push_escape(segment: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    segment.push('%');
    segment.push(char::from(DIGITS[usize::from(byte >> 4)]));
    segment.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn refuse_ambiguous(segment: &str) -> Result<(), PathError> {
    let is_dots = |part: &str| matches!(without_parameters(part), "." | "..");
    if without_parameters(segment).len() < segment.len() && is_dots(segment) {
        return Err(PathError::DotSegmentWithParameters);
    }
    if segment.contains("%2F") && segment.split("%2F").any(is_dots) {
        return Err(PathError::DotSegmentBesideEncodedSlash);
    }
    if segment.contains('%') {
        let decoded: Vec<u8> = percent_encoding::percent_decode_str(segment).collect();
        if decoded.windows(3).any(is_overlong) || decoded.windows(2).any(is_overlong) {
            return Err(PathError::OverlongEncoding);
        }
    }
    Ok(())
}

/// What is before the first semicolon, as it is or escaped.
fn without_parameters(part: &str) -> &str {
    let end = [part.find(';'), part.find("%3B")].into_iter().flatten().min();
    &part[..end.unwrap_or(part.len())]
}

/// Whether the bytes encode an ASCII character in two, three or four bytes instead of one. Other invalid UTF-8 is left
/// alone: paths in older encodings are real, and no server takes them for a slash or a dot.
fn is_overlong(bytes: &[u8]) -> bool {
    matches!(bytes, [0xc0 | 0xc1, 0x80..=0xbf] | [0xe0, 0x80 | 0x81, 0x80..=0xbf] | [0xf0, 0x80, 0x80 | 0x81])
}

#[cfg(test)]
mod tests;
