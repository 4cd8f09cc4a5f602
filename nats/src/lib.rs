//! The log on NATS JetStream: frames, group-commit publisher, checked reader.
//!
//! An event is a fact only after the acknowledgement of its frame, and the acknowledgement comes after fsync.
//! [`connect`] gives a [`Log`]; [`Log::verify`] proves that the server keeps that promise. A [`Publisher`]
//! turns many concurrent events into few frames; a [`Reader`] gives frames back in order, and [`Continuity`]
//! decides whether the log is whole so far.

mod connection;
mod continuity;
mod error;
mod frame;
mod log;
mod publisher;
mod reader;
mod stream;
mod verify;

pub use connection::{Auth, Connection, client};
pub use continuity::{AcceptedGap, Checkpoint, Continuity, Jump, ProducerState, Stop, Verdict, check_start};
pub use error::{ConnectError, LogError};
pub use events::GapKind;
pub use frame::{
    CONTENT_TYPE, Damage, EncodedEvent, FRAME_HEADER, FrameHeader, MAX_FRAME_BYTES, MAX_FRAME_EVENTS,
    Position, RawFrame,
};
pub use log::{Log, connect};
pub use publisher::{Acknowledgement, Lease, PublishError, Publisher, PublisherConfig, PublisherState, Term};
pub use reader::{ReadError, Reader, ReaderConfig};
pub use stream::{BadStreamName, DUPLICATE_WINDOW, StreamName, StreamState};
pub use verify::UnsafeLog;
