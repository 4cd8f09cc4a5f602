//! A call as a line of a file tells it, before it is validated like any reported call.

use std::fmt;
use std::net::IpAddr;

use api::http::problem::FieldError;
use chrono::{DateTime, Utc};
use ledger::{Invalid, UserRef};

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

/// Part of a line that names its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum UserFrom {
    /// By the client's address
    Ip,
    /// By the name that the client signed in with (the third field of a combined log, `user` of JSON)
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
    /// The line is not a JSON object.
    #[error("not a JSON object ({0})")]
    Json(String),
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

impl From<FieldError> for LineError {
    fn from(error: FieldError) -> Self {
        let pointer = error.pointer.unwrap_or_default();
        let field = pointer.strip_prefix("/data/").unwrap_or(pointer.trim_start_matches('/'));
        Self::Refused { field: field.to_owned(), detail: error.detail }
    }
}

/// Foreign text in a message: shortened, and without characters that a terminal would obey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quoted(String);

impl Quoted {
    const MAX_CHARS: usize = 60;

    /// Text from outside, made harmless.
    pub(crate) fn new(text: &str) -> Self {
        let mut shown: String = text.chars().take(Self::MAX_CHARS).flat_map(char::escape_default).collect();
        if text.chars().nth(Self::MAX_CHARS).is_some() {
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

/// The user of this name. An address is written in its one canonical form, so that a client stays one user.
pub(crate) fn user(name: &str) -> Result<UserRef, LineError> {
    let address = name.parse::<IpAddr>().map(|address| address.to_string());
    let user = address.as_deref().unwrap_or(name).parse();
    user.map_err(|reason| LineError::BadUser { name: Quoted::new(name), reason })
}
