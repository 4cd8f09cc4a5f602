//! Calls as clients wrote them: fields of the right kind, and nothing checked yet.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

/// One item as the client wrote it.
#[derive(Debug)]
pub struct Draft<'a> {
    /// Unique within source and subject.
    pub id: Cow<'a, str>,
    /// Source that numbers the ids.
    pub source: Option<Cow<'a, str>>,
    /// User whose call it was.
    pub subject: Option<Cow<'a, str>>,
    /// Time at which it was.
    pub time: Option<DateTime<Utc>>,
    /// The call.
    pub call: CallDraft<'a>,
}

/// The fields of a call.
#[derive(Debug, Default)]
pub struct CallDraft<'a> {
    /// Endpoint that was called.
    pub endpoint: EndpointDraft<'a>,
    /// HTTP method.
    pub method: Option<Cow<'a, str>>,
    /// Status of its answer.
    pub status_code: Option<u64>,
    /// Time that it took, in milliseconds.
    pub response_time_ms: Option<u64>,
    /// The client's address.
    pub ip_address: Option<Cow<'a, str>>,
    /// The client's user agent.
    pub user_agent: Option<Cow<'a, str>>,
    /// Bytes of the request.
    pub request_size: Option<u64>,
    /// Bytes of the response.
    pub response_size: Option<u64>,
    /// Its cost, if the client says so.
    pub units: Option<u64>,
}

impl CallDraft<'_> {
    /// The same, which borrows nothing.
    pub(super) fn into_owned(self) -> CallDraft<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        CallDraft {
            endpoint: match self.endpoint {
                EndpointDraft::Path(path) => EndpointDraft::Path(owned(path)),
                EndpointDraft::EventType(kind) => EndpointDraft::EventType(owned(kind)),
            },
            method: self.method.map(owned),
            status_code: self.status_code,
            response_time_ms: self.response_time_ms,
            ip_address: self.ip_address.map(owned),
            user_agent: self.user_agent.map(owned),
            request_size: self.request_size,
            response_size: self.response_size,
            units: self.units,
        }
    }
}

/// Endpoint that was called.
#[derive(Debug)]
pub enum EndpointDraft<'a> {
    /// A path.
    Path(Cow<'a, str>),
    /// Nothing that has a path: an event of this type.
    EventType(Cow<'a, str>),
}

impl Default for EndpointDraft<'_> {
    fn default() -> Self {
        Self::EventType(Cow::Borrowed(""))
    }
}
