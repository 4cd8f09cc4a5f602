//! Faults of events that cannot be applied. Their texts are kept in dead letters and told by a stopped projector.

use events::{EventError, FrameBodyError};
use ledger::Month;
use store::Position;
use store::projection::dead_letters::Reason;

use crate::error::chain;

/// Fault of an event, or of a whole frame, for which it cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum EventFault {
    /// The frame's body is no batch of events.
    #[error(transparent)]
    Frame(FrameBodyError),
    /// The frame's header announces another number of events than its body has.
    #[error("the frame's header says {announced} events, its body has {found}")]
    Count {
        /// Events by the header.
        announced: usize,
        /// Events of the body.
        found: u16,
    },
    /// The event, or its id, cannot be read.
    #[error("{}", .0.detail())]
    Unreadable(EventError),
    /// The event concerns a user, and names none.
    #[error("it has no subject")]
    NoSubject,
    /// A later version wrote the event.
    #[error("this version does not know the type {0}")]
    UnknownType(String),
    /// A later version wrote the event into a user's audit chain.
    #[error("this version does not know the type")]
    UnknownLink,
    /// The frame's events cannot be told from each other as bytes, of which an audit chain is made.
    #[error("its bytes cannot be told from the frame's")]
    NoBytes,
    /// The event is of a type that no audit chain has.
    #[error("it belongs to no audit chain")]
    NotAudited,
    /// The month of the call is not a part of the table any more.
    #[error("the month {0} is detached and takes no rows")]
    Detached(Month),
    /// The call that ended was never begun.
    #[error("the user has no call with this id and time before it")]
    NoCall,
    /// The database refuses a value of the event.
    #[error("{}", chain(.0))]
    Refused(store::Error),
}

impl EventFault {
    /// The kind under which a dead letter is listed.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Frame(_)
            | Self::Count { .. }
            | Self::Unreadable(_)
            | Self::NoSubject
            | Self::UnknownLink
            | Self::NoBytes
            | Self::NotAudited => Reason::Undecodable,
            Self::UnknownType(_) => Reason::Unknown,
            Self::Detached(_) | Self::NoCall => Reason::Domain,
            Self::Refused(_) => Reason::Refused,
        }
    }
}

/// An event of a user's audit chain that cannot be read. Passed over, the chain would be broken for ever.
#[derive(Debug, thiserror::Error)]
#[error("the event {position} of a user's audit chain cannot be read: {event_type}")]
pub struct BrokenLink {
    /// Its position in the log.
    pub position: Position,
    /// Its type, as far as it could be read.
    pub event_type: String,
    /// Its fault.
    #[source]
    pub fault: EventFault,
}
