//! Errors of events and of frames' bodies.

use crate::body::Body;

/// Why one event of a frame cannot be applied. The others of its frame are not concerned.
#[derive(Debug, thiserror::Error)]
#[error("an event of type {event_type} cannot be read: {kind}")]
pub struct EventError {
    /// The event's type, as far as it could be read; else `unknown`.
    pub event_type: String,
    /// The fault.
    pub kind: EventErrorKind,
    /// The JSON reader's error.
    #[source]
    pub source: Option<serde_json::Error>,
}

/// Fault of an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventErrorKind {
    /// It is no `CloudEvent` 1.0: an attribute is missing or of the wrong type.
    #[error("it is not a CloudEvent 1.0")]
    Envelope,
    /// Its `data` does not have the fields that its type has.
    #[error("its data is not what its type demands")]
    Data,
    /// A field holds what it may not.
    #[error("{field}: {detail}")]
    Invalid {
        /// The field, as in `data.units`.
        field: &'static str,
        /// Stable `snake_case` code.
        code: &'static str,
        /// One sentence.
        detail: String,
    },
    /// It holds an address or a user agent in the clear, as builds before the first release wrote them: what an erasure
    /// could not reach. Such a log is not read at all.
    #[error(
        "the log was written by a build before the first release, with addresses in the clear; start with a new log"
    )]
    EarlierBuild,
    /// It is larger than [`crate::MAX_EVENT_BYTES`].
    #[error("it is larger than 16384 bytes")]
    TooLarge,
}

impl EventErrorKind {
    /// Stable `snake_case` reason, as dead letters carry it.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Envelope => "malformed",
            Self::Data => "invalid_data",
            Self::Invalid { code, .. } => code,
            Self::EarlierBuild => "earlier_build",
            Self::TooLarge => "too_large",
        }
    }
}

impl EventError {
    /// An error of an event with this body.
    pub fn new(body: &Body<'_>, kind: EventErrorKind) -> Self {
        Self { event_type: body.event_type().into_owned(), kind, source: None }
    }

    /// Stable `snake_case` reason, as dead letters carry it.
    pub const fn reason(&self) -> &'static str {
        self.kind.reason()
    }

    /// Whether the event is a link of a user's audit chain, as [`Body::is_audited`] says it.
    pub fn is_audited(&self) -> bool {
        crate::body::is_audited(&self.event_type)
    }

    /// One line for people: what is wrong and, where the JSON reader said more, that too.
    pub fn detail(&self) -> String {
        match &self.source {
            Some(source) => format!("{}: {source}", self.kind),
            None => self.kind.to_string(),
        }
    }
}

/// Why the body of a frame is not a batch of events at all.
#[derive(Debug, thiserror::Error)]
pub enum FrameBodyError {
    /// It is not UTF-8.
    #[error("the frame's body is not UTF-8")]
    NotUtf8(#[source] std::str::Utf8Error),
    /// It does not begin with `[`.
    #[error("the frame's body is not a JSON array")]
    NotAnArray,
    /// It is no JSON from this byte on.
    #[error("the frame's body is not valid JSON at byte {at}")]
    Malformed {
        /// The byte, from 0.
        at: usize,
        /// The JSON reader's error.
        #[source]
        source: Option<serde_json::Error>,
    },
}
