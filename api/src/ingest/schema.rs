//! Events as clients may send them, for the document: `parse` reads them by hand.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A CloudEvent 1.0 of a call. Attributes that are not named here are extensions, and passed over.
#[derive(Serialize, ToSchema)]
pub(super) struct CloudEvent {
    /// `1.0`.
    #[schema(pattern = "^1\\.0$")]
    specversion: String,
    /// Counts once for its source and subject.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    /// Who numbers the ids.
    #[schema(min_length = 1, max_length = 255)]
    source: String,
    /// Any.
    #[serde(rename = "type")]
    kind: String,
    /// The user whose call it was: UUID or external id. Of a user's own report it may be left out.
    #[schema(min_length = 1, max_length = 255)]
    subject: Option<String>,
    /// When it was; now unless given.
    time: Option<DateTime<Utc>>,
    /// A media type of JSON.
    datacontenttype: Option<String>,
    /// The call.
    data: Option<CallFields>,
    /// The same as Base64 of its JSON, in the place of `data`.
    data_base64: Option<String>,
}

/// A call as plain JSON: the same, of which only the id, the subject and the call are needed.
#[derive(Serialize, ToSchema)]
pub(super) struct PlainEvent {
    /// Counts once for its source and subject.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    /// Who numbers the ids; `api` unless given.
    #[schema(min_length = 1, max_length = 255)]
    source: Option<String>,
    /// The user whose call it was: UUID or external id. Of a user's own report it may be left out.
    #[schema(min_length = 1, max_length = 255)]
    subject: Option<String>,
    /// When it was; now unless given.
    time: Option<DateTime<Utc>>,
    /// The call.
    data: CallFields,
}

/// One call or several.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what `parse` reads")]
pub(super) enum PlainEvents {
    /// One.
    One(Box<PlainEvent>),
    /// Several.
    Several(Vec<PlainEvent>),
}

/// The fields of a call.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CallFields {
    /// Path of the call.
    #[schema(min_length = 1, max_length = 2048)]
    endpoint: String,
    /// HTTP method.
    #[schema(max_length = 32)]
    method: Option<String>,
    /// Status of its answer.
    #[schema(minimum = 100, maximum = 599)]
    status_code: Option<u16>,
    /// Time that it took, in milliseconds.
    #[schema(maximum = 2_147_483_647)]
    response_time_ms: Option<u32>,
    /// Address of its client.
    ip_address: Option<String>,
    /// User agent of its client; longer ones are cut.
    user_agent: Option<String>,
    /// Bytes of the request.
    request_size: Option<u64>,
    /// Bytes of the response.
    response_size: Option<u64>,
    /// Its cost; what the rules say unless given.
    #[schema(minimum = 1, maximum = 1_000_000)]
    units: Option<u32>,
}

/// A CloudEvent 1.0 with any data, of which `endpoint`, `route` or `path` and `units` are looked for.
#[derive(Serialize, ToSchema)]
pub(super) struct AnyEvent {
    /// `1.0`.
    #[schema(pattern = "^1\\.0$")]
    specversion: String,
    /// Counts once for its source and subject.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    /// Who numbers the ids.
    #[schema(min_length = 1, max_length = 255)]
    source: String,
    /// Names the endpoint where data does not.
    #[serde(rename = "type")]
    kind: String,
    /// The user whose event it was: UUID or external id.
    #[schema(min_length = 1, max_length = 255)]
    subject: Option<String>,
    /// When it was; now unless given.
    time: Option<DateTime<Utc>>,
    /// A media type of JSON.
    datacontenttype: Option<String>,
    /// Anything.
    data: Option<Value>,
    /// The same as Base64 of its JSON, in the place of `data`.
    data_base64: Option<String>,
}
