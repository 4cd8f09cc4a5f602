//! Wire types of the log: `CloudEvents` 1.0 in JSON, their versions, how they are written and read.
//!
//! A new optional field is not a new version, and readers pass over fields that they do not know. A changed meaning is
//! a new version. `golden/` holds one file per type and version, read in a test for ever.

mod account;
mod actor;
mod api_key;
mod body;
mod decode;
mod encode;
mod error;
mod event;
pub mod event_type;
mod request;
mod scan;
mod sealed;
mod token;
mod wire;

pub use account::{AccountAction, AccountFact, AuthFailed, AuthFailureCount};
pub use actor::{Actor, ActorKind};
pub use api_key::{ApiKeyRevoked, ApiKeyRotated, ApiKeyTerms};
pub use body::{
    ApiCalled, Body, CallCompleted, ClaimsTurned, GapAccepted, GapKind, LimitRejected, LimitThresholdCrossed,
    OwnCallCount, OwnCalls, PeriodClosed, PlanChanged, StatusClass, UsageReset,
};
pub use decode::{decode, decode_batch, raw_events};
pub use encode::{encode, encode_batch};
pub use error::{EventError, EventErrorKind, FrameBodyError};
pub use event::{
    Event, MAX_EVENT_BYTES, OWN_SOURCES, RESERVED_SOURCE_PREFIX, SOURCE_API, SOURCE_CLI, SOURCE_IMPORT,
    SOURCE_WORKER, claim_id, is_reserved_source, needs_claim,
};
pub use request::{LastCall, REQUESTS_KEPT, SAME_REQUEST, is_same_request, request_hash};
pub use sealed::{MAX_SEALED_BYTES, NotSealed, Personal, SealedJson};
pub use token::{TokenDeleted, TokenStored, TokenUsed, UserErased};
