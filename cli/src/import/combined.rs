//! The combined log format of Apache and nginx:
//! `host ident user [time] "request" status bytes "referer" "user agent"`.
//!
//! Both servers write a quote inside a quoted field as an escape (Apache `\"`, nginx `\x22`), so that the first bare
//! quote ends it. Fields that a configuration adds behind the user agent are passed over.
//!
//! Sources: Apache `mod_log_config` ("Format Notes"), nginx `ngx_http_log_module` (`escape=default`).

use std::borrow::Cow;
use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use super::call::{Call, LineError, Quoted, UserFrom, user};

/// A part that was read, and the rest of the line behind it.
type Parsed<'a, T> = Result<(T, &'a [u8]), LineError>;

const TIME_BYTES: usize = "10/Oct/2000:13:55:36 -0700".len();

/// Parses a line, without its line end.
pub(crate) fn parse(line: &[u8], user_from: UserFrom) -> Result<Call, LineError> {
    let (host, rest) = word(line).ok_or(LineError::CutShort("client"))?;
    let (_ident, rest) = word(rest).ok_or(LineError::CutShort("user"))?;
    let ((name, time), rest) = user_and_time(rest)?;
    let (request, rest) = quoted(rest, "request")?;
    let (status, rest) = number(skip_space(rest), "status")?;
    let (bytes, rest) = number(skip_space(rest), "number of bytes")?;
    let (_referer, rest) = quoted(skip_space(rest), "referer")?;
    let (agent, _rest) = quoted(skip_space(rest), "user agent")?;

    let host = lossy(host);
    let (method, endpoint) = request_line(&request)?;
    let named = match user_from {
        UserFrom::Ip => host.as_ref(),
        UserFrom::User | UserFrom::Field => name.as_deref().ok_or(LineError::NoUser)?,
    };
    Ok(Call {
        user: user(named)?,
        time,
        endpoint,
        method: Some(method),
        status_code: status,
        response_time_ms: None,
        ip_address: host.parse().ok(),
        user_agent: present(&agent).map(|agent| String::from_utf8_lossy(agent).into_owned()),
        request_size: None,
        // Apache writes a dash where no byte of a body was sent.
        response_size: Some(bytes.unwrap_or(0)),
        units: None,
    })
}

/// The text before the next space, and the text behind it.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == b' ')?;
    (at > 0).then(|| (&text[..at], &text[at + 1..]))
}

fn skip_space(text: &[u8]) -> &[u8] {
    text.strip_prefix(b" ").unwrap_or(text)
}

/// The user's name may hold spaces and brackets, which no server escapes, but no bare quote. So the first `] "` ends
/// the time, and the name is all that comes before it.
fn user_and_time(text: &[u8]) -> Parsed<'_, (Option<String>, DateTime<Utc>)> {
    let not_a_time = LineError::Field { field: "time", expected: "like [10/Oct/2000:13:55:36 -0700]" };
    let end = text.windows(3).position(|part| part == b"] \"").ok_or(LineError::CutShort("request"))?;
    let start = end.checked_sub(TIME_BYTES + 2).ok_or(not_a_time.clone())?;
    let time = text[start..end].strip_prefix(b" [").and_then(parse_time).ok_or(not_a_time)?;
    let name = unescape(&text[..start]);
    let name = present(&name).map(|name| String::from_utf8_lossy(name).into_owned());
    Ok(((name, time), &text[end + 2..]))
}

/// A time of the form `10/Oct/2000:13:55:36 -0700`. A leap second is the second before it, as in Unix time.
fn parse_time(text: &[u8]) -> Option<DateTime<Utc>> {
    let digits = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    // Chrono takes single digits and spaces, too; then something else would be wrong with the line.
    if text.len() != TIME_BYTES || !digits(&text[..2]) || !digits(&text[7..11]) || !digits(&text[22..]) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let parsed = DateTime::parse_from_str(text, "%d/%b/%Y:%H:%M:%S %z").ok()?;
    DateTime::from_timestamp(parsed.timestamp(), 0)
}

/// The content of a quoted field, with its escapes undone, and what comes behind it.
fn quoted<'a>(text: &'a [u8], field: &'static str) -> Parsed<'a, Cow<'a, [u8]>> {
    let Some(content) = text.strip_prefix(b"\"") else {
        return Err(match text {
            [] => LineError::CutShort(field),
            _ => LineError::Field { field, expected: "in quotes" },
        });
    };
    let mut at = 0;
    while let Some(&byte) = content.get(at) {
        match byte {
            b'"' => return Ok((unescape(&content[..at]), &content[at + 1..])),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Err(LineError::OpenQuote(field))
}

/// A number or a dash, up to the next space or the line's end.
fn number<'a>(text: &'a [u8], field: &'static str) -> Parsed<'a, Option<u64>> {
    let at = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
    let (number, rest) = text.split_at(at);
    match number {
        b"" => Err(LineError::CutShort(field)),
        b"-" => Ok((None, rest)),
        // What `parse` would also take, such as a sign, is no number of a log.
        _ if !number.iter().all(u8::is_ascii_digit) => Err(LineError::Field { field, expected: "a number" }),
        _ => match std::str::from_utf8(number).ok().and_then(|text| text.parse().ok()) {
            Some(number) => Ok((Some(number), rest)),
            None => Err(LineError::Field { field, expected: "a number that fits 64 bits" }),
        },
    }
}

/// Undoes Apache's and nginx's escapes. An unknown one stays as it is.
fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        let (escaped, length) = match (*byte, tail) {
            (b'\\', [b'x', high, low, ..]) => {
                (hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low), 4)
            }
            (b'\\', [code, ..]) => (named_escape(*code), 2),
            _ => (None, 1),
        };
        let (byte, length) = escaped.map_or((*byte, 1), |byte| (byte, length));
        plain.push(byte);
        rest = &rest[length..];
    }
    Cow::Owned(plain)
}

fn named_escape(code: u8) -> Option<u8> {
    match code {
        b'"' | b'\\' => Some(code),
        b'b' => Some(0x08),
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'v' => Some(0x0b),
        _ => None,
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Method and target of a request line. HTTP/0.9 has no version; a target may hold spaces, where a client sent them.
fn request_line(request: &[u8]) -> Result<(String, String), LineError> {
    let no_target = || LineError::NoTarget(Quoted::new(&lossy(request)));
    let (method, rest) = word(request).ok_or_else(no_target)?;
    let target = match rest.iter().rposition(|&byte| byte == b' ') {
        Some(at) if rest[at + 1..].starts_with(b"HTTP/") => &rest[..at],
        // A version and no target.
        None if rest.starts_with(b"HTTP/") => &[],
        _ => rest,
    };
    if target.is_empty() {
        return Err(no_target());
    }
    Ok((lossy(method).into_owned(), percent_encoded(target)))
}

/// Bytes beyond ASCII stand for themselves in a path; escaped they survive whatever encoding they were meant in.
fn percent_encoded(target: &[u8]) -> String {
    let mut text = String::with_capacity(target.len());
    for &byte in target {
        if byte.is_ascii() {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The field's text; none for the dash (or nothing) that stands where a client sent nothing.
fn present(field: &[u8]) -> Option<&[u8]> {
    (!field.is_empty() && field != b"-").then_some(field)
}

fn lossy(text: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(text)
}

#[cfg(test)]
mod tests;
