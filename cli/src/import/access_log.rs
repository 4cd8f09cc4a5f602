//! The access logs of Apache and nginx: `host ident user [time] "request" status bytes` (common), with
//! `"referer" "user agent"` behind it (combined), and with the virtual host before it (`vhost_combined`).
//!
//! Both servers write a quote inside a quoted field as an escape (Apache `\"`, nginx `\x22`), so that the first bare
//! quote ends it. Fields that a configuration adds behind the last one are passed over; what it adds before the time
//! is refused: another than the client would be charged.
//!
//! Sources: Apache `mod_log_config` ("Format Notes"), nginx `ngx_http_log_module` (`escape=default`).

mod prefix;

use std::borrow::Cow;
use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use super::call::{Call, LineError, Note, Quoted, Reading, Remark, UserFrom, user};
use super::lookalike::Lookalike;
use prefix::Prefix;

/// Form of an access log's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Ends with the number of bytes.
    Common,
    /// Common, with referer and user agent.
    Combined,
    /// Combined, with the virtual host at the beginning.
    VhostCombined,
}

/// A part that was read, and the rest of the line behind it.
type Parsed<'a, T> = Result<(T, &'a [u8]), LineError>;

const TIME_BYTES: usize = "10/Oct/2000:13:55:36 -0700".len();

/// Parses a line, without its line end.
pub(crate) fn parse(line: &[u8], layout: Layout, user_from: UserFrom) -> Result<Reading, LineError> {
    let ((prefix, time), rest) = prefix_and_time(line)?;
    let Prefix { host, user: name } =
        Prefix::parse(prefix, layout).ok_or_else(|| looks_like(line, layout))?;
    let (request, rest) = quoted(rest, "request")?;
    let mut notes = Vec::new();
    let (status, rest) = number(skip_space(rest), ("status", "status_code"), &mut notes)?;
    let sent = skip_space(rest);
    let (bytes, rest) = number(sent, ("number of bytes", "response_size"), &mut notes)?;
    // Apache writes a dash where no byte of a body was sent.
    let bytes = if sent.starts_with(b"-") { Some(0) } else { bytes };
    let agent = match layout {
        Layout::Common => Cow::Borrowed(&b"-"[..]),
        Layout::Combined | Layout::VhostCombined => {
            let (_referer, rest) = quoted(skip_space(rest), "referer")?;
            quoted(skip_space(rest), "user agent")?.0
        }
    };
    let (method, endpoint) = request_line(&request)?;
    let user = match user_from {
        UserFrom::Ip => host.user()?,
        UserFrom::User | UserFrom::Field => user(&named(name)?)?,
    };
    let call = Call {
        user,
        time,
        endpoint,
        method: Some(method),
        status_code: status,
        response_time_ms: None,
        ip_address: host.address(&mut notes),
        user_agent: present(&agent).map(|agent| text(agent, "user_agent", &mut notes)),
        request_size: None,
        response_size: bytes,
        units: None,
    };
    let call = call.without_what_cannot_be(&mut notes);
    Ok(Reading { call, notes })
}

/// What stands before the time, the time, and what stands behind it. The user's name may hold spaces and brackets,
/// which no server escapes, but no bare quote: so the first `] "` ends the time.
fn prefix_and_time(line: &[u8]) -> Parsed<'_, (&[u8], DateTime<Utc>)> {
    let Some(end) = line.windows(3).position(|part| part == b"] \"") else {
        return Err(Lookalike::known(line).map_or_else(|| ends_early(line), LineError::Lookalike));
    };
    let not_a_time = || {
        let error = LineError::Field { field: "time", expected: "like [10/Oct/2000:13:55:36 -0700]" };
        Lookalike::known(line).map_or(error, LineError::Lookalike)
    };
    let start = end.checked_sub(TIME_BYTES + 2).ok_or_else(not_a_time)?;
    let time = line[start..end].strip_prefix(b" [").and_then(parse_time).ok_or_else(not_a_time)?;
    Ok(((&line[..start], time), &line[end + 2..]))
}

fn ends_early(line: &[u8]) -> LineError {
    LineError::CutShort(match line.split(|byte| *byte == b' ').count() {
        1 => "client",
        2 => "user",
        _ => "request",
    })
}

fn looks_like(line: &[u8], layout: Layout) -> LineError {
    let lookalike = match Lookalike::known(line) {
        // It begins as it should, so something else is wrong with it.
        Some(Lookalike::Vhost) if layout == Layout::VhostCombined => Lookalike::Other,
        Some(lookalike) => lookalike,
        None if layout == Layout::VhostCombined => Lookalike::NoVhost,
        None => Lookalike::Other,
    };
    LineError::Lookalike(lookalike)
}

/// The user's name as text.
fn named(name: Option<&[u8]>) -> Result<String, LineError> {
    let name = unescape(name.ok_or(LineError::NoUser)?);
    // With replaced bytes two names could become one.
    String::from_utf8(name.into_owned()).map_err(|_| LineError::UserNotUtf8)
}

/// The field's text; that bytes had to be replaced is noted.
fn text(field: &[u8], name: &'static str, notes: &mut Vec<Note>) -> String {
    let text = String::from_utf8_lossy(field);
    if matches!(text, Cow::Owned(_)) {
        notes.push(Note { field: name, remark: Remark::Replaced });
    }
    text.into_owned()
}

/// The text before the next space, and the text behind it.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == b' ').filter(|at| *at > 0)?;
    Some((&text[..at], &text[at + 1..]))
}

fn skip_space(text: &[u8]) -> &[u8] {
    text.strip_prefix(b" ").unwrap_or(text)
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

/// A number or a dash, up to the next space or the line's end. One that is too large is noted and left out. A field has
/// a name in the line and one of ours.
fn number<'a>(
    text: &'a [u8],
    (field, own_name): (&'static str, &'static str),
    notes: &mut Vec<Note>,
) -> Parsed<'a, Option<u64>> {
    let at = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
    let (number, rest) = text.split_at(at);
    match number {
        b"" => Err(LineError::CutShort(field)),
        b"-" => Ok((None, rest)),
        // Fields stand in their places here: what is no number is another field, and the line of another form.
        _ if !number.iter().all(u8::is_ascii_digit) => Err(LineError::Field { field, expected: "a number" }),
        _ => {
            let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
            if number.is_none() {
                notes.push(Note { field: own_name, remark: Remark::LeftOut("a number that fits 64 bits") });
            }
            Ok((number, rest))
        }
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
