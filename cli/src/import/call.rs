//! A call as a line of a file tells it, before it is validated like any reported call.

use std::fmt;
use std::net::IpAddr;

use api::http::problem::FieldError;
use chrono::{DateTime, Utc};
use ledger::{Invalid, Method, StatusCode, Units, UserRef, address, report};

use super::lookalike::Lookalike;

/// A call that a line tells of. Its texts are as found: the ingest path normalises and checks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// User who made it.
    pub(crate) user: UserRef,
    /// Time at which it happened.
    pub(crate) time: DateTime<Utc>,
    /// The request's target.
    pub(crate) endpoint: String,
    /// The request's method.
    pub(crate) method: Option<String>,
    /// The answer's status.
    pub(crate) status_code: Option<u64>,
    /// Duration in milliseconds.
    pub(crate) response_time_ms: Option<u64>,
    /// The client's address.
    pub(crate) ip_address: Option<IpAddr>,
    /// The client's user agent.
    pub(crate) user_agent: Option<String>,
    /// Bytes of the request.
    pub(crate) request_size: Option<u64>,
    /// Bytes of the answer.
    pub(crate) response_size: Option<u64>,
    /// Its cost in units; none when the rules say it.
    pub(crate) units: Option<u64>,
}

impl Call {
    /// Leaves out what cannot be recorded of it, and notes it: a call that lacks a field is still a call.
    pub(super) fn without_what_cannot_be(mut self, notes: &mut Vec<Note>) -> Self {
        let mut keep = |field, is_good: bool, expected| {
            if !is_good {
                notes.push(Note { field, remark: Remark::LeftOut(expected) });
            }
            is_good
        };
        self.method = self
            .method
            .filter(|method| keep("method", Method::new(method.as_str()).is_ok(), "an HTTP method's name"));
        self.status_code = self
            .status_code
            .filter(|code| keep("status_code", StatusCode::new(*code).is_ok(), "a number from 100 to 599"));
        self.response_time_ms = self.response_time_ms.filter(|millis| {
            keep("response_time_ms", report::response_time_ms(*millis).is_ok(), "a time up to 2147483647 ms")
        });
        self.units = self
            .units
            .filter(|units| keep("units", Units::new(*units).is_ok(), "a number from 1 to 1000000"));
        for (field, size) in
            [("request_size", &mut self.request_size), ("response_size", &mut self.response_size)]
        {
            *size = size.filter(|size| keep(field, report::size_bytes(*size).is_ok(), "a size in 63 bits"));
        }
        self
    }
}

/// A call as it was read, and what had to be done to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The call.
    pub(crate) call: Call,
    /// Usually none.
    pub(crate) notes: Vec<Note>,
}

/// A field that is not recorded as it stands in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Note {
    /// Its name.
    pub(crate) field: &'static str,
    /// What became of it.
    pub(crate) remark: Remark,
}

/// Fate of a field that cannot be recorded as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Remark {
    /// Bytes that are not UTF-8 became U+FFFD.
    Replaced,
    /// It was a list.
    FirstOfSeveral,
    /// It had a fraction.
    Rounded,
    /// A port stood behind an address.
    PortCut,
    /// It is not this, so the call is recorded without it.
    LeftOut(&'static str),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.field;
        match self.remark {
            Remark::Replaced => write!(f, "{field}: bytes that are not UTF-8 were replaced"),
            Remark::FirstOfSeveral => write!(f, "{field}: of several values the first one was taken"),
            Remark::Rounded => write!(f, "{field}: a fraction was rounded half up"),
            Remark::PortCut => write!(f, "{field}: the port was cut"),
            Remark::LeftOut(expected) => write!(f, "{field}: left out, for it is not {expected}"),
        }
    }
}

/// Part of a line that names its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum UserFrom {
    /// By the client's address
    Ip,
    /// By the name that the client signed in with (the third field of an access log, `user` of JSON)
    User,
    /// By the JSON field that --map user=NAME names
    Field,
}

/// Reason for which a line gives no call. Shown behind the line's number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    /// The line ends too early.
    #[error("the line ends before its {0}")]
    CutShort(&'static str),
    /// A quoted field has no end.
    #[error("the {0} has no closing quote")]
    OpenQuote(&'static str),
    /// A field is not what it should be.
    #[error("the {field} is not {expected}")]
    Field {
        /// Its name.
        field: &'static str,
        /// Its form, as it should be.
        expected: &'static str,
    },
    /// A mapped field of a JSON line is not what it should be.
    #[error("{member} ({field}) is not {expected}")]
    Member {
        /// The name in the file.
        member: Quoted,
        /// Our name.
        field: &'static str,
        /// Its form, as it should be.
        expected: &'static str,
    },
    /// A mapped field that must be there is not.
    #[error("{member} ({field}) is missing")]
    MissingMember {
        /// The name in the file.
        member: Quoted,
        /// Our name.
        field: &'static str,
    },
    /// The request line names no target.
    #[error("the request {0} names no path")]
    NoTarget(Quoted),
    /// Nobody is named as the user.
    #[error("nobody is named as the user (--user-from)")]
    NoUser,
    /// The name of the user cannot be one.
    #[error("{name} cannot name a user: {reason}")]
    BadUser {
        /// The name.
        name: Quoted,
        /// The rule that it breaks.
        reason: Invalid,
    },
    /// The name of the user is not text, so that two users could be read as one.
    #[error("the user's name is not UTF-8")]
    UserNotUtf8,
    /// Several users are named.
    #[error(
        "{member} (user) names several users: which one is charged, a path such as {member}.0 in --map says"
    )]
    SeveralUsers {
        /// The name in the file.
        member: Quoted,
    },
    /// A client's address is needed, and is none.
    #[error("the client is neither an address nor a host's name")]
    NoClient,
    /// The part before the time is not that of the format.
    #[error("{0}")]
    Lookalike(Lookalike),
    /// The line is not a JSON object.
    #[error("not a JSON object ({0})")]
    Json(Quoted),
    /// The line is longer than a line may be.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// The ingest path refuses the call.
    #[error("{field}: {detail}")]
    Refused {
        /// The field's name.
        field: String,
        /// One sentence.
        detail: String,
    },
    /// The ingest path does not say why.
    #[error("it was not accepted")]
    Unexplained,
}

impl LineError {
    /// What lines of the same fault have in common: the message without what this line brought into it.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::NoTarget(_) => "the request names no path".to_owned(),
            Self::BadUser { reason, .. } => format!("the name cannot be a user's: {reason}"),
            Self::Json(_) => "not a JSON object".to_owned(),
            other => other.to_string(),
        }
    }
}

impl From<FieldError> for LineError {
    fn from(error: FieldError) -> Self {
        let pointer = error.pointer.unwrap_or_default();
        let field = pointer.strip_prefix("/data/").unwrap_or(pointer.trim_start_matches('/'));
        Self::Refused { field: field.to_owned(), detail: error.detail }
    }
}

/// A line that gives no call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// Its number, from 1.
    pub(crate) line: u64,
    /// Why it gives none.
    pub(crate) error: LineError,
    /// Its beginning.
    pub(crate) excerpt: Excerpt,
}

/// The first bytes of a line, to be shown if need be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Excerpt(Box<[u8]>);

impl Excerpt {
    const MAX_BYTES: usize = 160;

    /// The beginning of this line.
    pub(crate) fn of(line: &[u8]) -> Self {
        Self(line[..line.len().min(Self::MAX_BYTES)].into())
    }

    /// It, made harmless.
    pub(crate) fn quoted(&self) -> Quoted {
        Quoted::up_to(&String::from_utf8_lossy(&self.0), 120)
    }
}

/// Foreign text in a message: shortened, and without characters that a terminal would obey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quoted(String);

impl Quoted {
    /// Text from outside, made harmless.
    pub(crate) fn new(text: &str) -> Self {
        Self::up_to(text, 60)
    }

    fn up_to(text: &str, max_chars: usize) -> Self {
        let mut shown: String = text.chars().take(max_chars).flat_map(char::escape_default).collect();
        if text.chars().nth(max_chars).is_some() {
            shown.push('…');
        }
        Self(shown)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// The user of this name. An address is written in its one canonical form, without its port, so that a client stays
/// one user.
pub(super) fn user(name: &str) -> Result<UserRef, LineError> {
    if is_socket(name) {
        return Err(LineError::NoUser);
    }
    if names_addresses(name) {
        return Err(LineError::Lookalike(Lookalike::Addresses));
    }
    let address = address::parse_client(name).map(|client| client.address.to_string());
    let user = address.as_deref().unwrap_or(name).parse();
    user.map_err(|reason| LineError::BadUser { name: Quoted::new(name), reason })
}

/// The user's name or the client's, unless it is one of the forms in which logs say that there is none.
pub(super) fn somebody(name: &str) -> Option<&str> {
    (!matches!(name, "" | "-" | "\"\"")).then_some(name)
}

/// Whether a server says by it that the client is a socket of the machine itself: nobody.
fn is_socket(text: &str) -> bool {
    text.strip_prefix("unix:").is_some_and(|path| path.is_empty() || path.starts_with(['/', '@']))
}

/// Whether it is what proxies write of the clients and proxies before them: a list with an address in it, as
/// X-Forwarded-For has it, or Forwarded (RFC 7239). A name may hold a comma.
fn names_addresses(text: &str) -> bool {
    let is_address = |part: &str| address::parse_client(part.trim()).is_some();
    let is_hop = |part: &str| {
        let part = part.trim_start();
        part.get(..4).is_some_and(|name| name.eq_ignore_ascii_case("for="))
    };
    let mut words = text.split_whitespace();
    (text.contains(',') && text.split(',').any(is_address))
        || text.split([',', ';']).any(is_hop)
        || (words.by_ref().take(1).any(is_address) && words.next().is_some_and(is_address))
}

/// Client of a call, as a line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host<'a> {
    /// An address, and whether a port was cut.
    Address(address::Client),
    /// A name, where the server looked it up.
    Name(&'a str),
    /// Nobody is named: a dash, or a socket of the machine itself.
    Nobody,
}

impl<'a> Host<'a> {
    /// The client of this text; none when it is something else.
    pub(super) fn of(text: &'a str) -> Option<Self> {
        if somebody(text).is_none() || is_socket(text) {
            return Some(Self::Nobody);
        }
        let address = address::parse_client(text).map(Self::Address);
        address.or_else(|| is_host_name(text).then_some(Self::Name(text)))
    }

    /// The user that this client is.
    pub(super) fn user(&self) -> Result<UserRef, LineError> {
        match self {
            Self::Address(client) => user(&client.address.to_string()),
            Self::Name(name) => user(name),
            Self::Nobody => Err(LineError::NoUser),
        }
    }

    /// The address, if it is one; that a port was cut is noted.
    pub(super) fn address(&self, notes: &mut Vec<Note>) -> Option<IpAddr> {
        let Self::Address(client) = self else { return None };
        if client.had_port {
            notes.push(Note { field: "ip_address", remark: Remark::PortCut });
        }
        Some(client.address)
    }
}

/// Whether it may be the name of a host: labels of letters, digits, `-` and `_`. The last one is not of digits alone,
/// as that of an address is (WHATWG URL, "ends in a number").
fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}
