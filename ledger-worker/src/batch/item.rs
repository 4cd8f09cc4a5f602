//! Events of a batch, read: each is what it asks for.

use std::ops::Range;

use chrono::{DateTime, Utc};
use events::event_type;
use ledger::{Category, KeyId, Month, UserId};
use store::Position;
use store::projection::audit_chain::security_log::{Act, AuthFailuresRow};
use store::projection::completions::Completion;
use store::projection::dead_letters::DeadLetter;
use store::projection::gathered::{OwnCallsRow, Rejection};
use store::projection::subscriptions::PlanChange;
use store::projection::thresholds::Crossing;
use store::projection::usage_rows::RowKey;
use uuid::Uuid;

use super::audited::Audited;

/// One event, in the log's order.
#[derive(Debug, Clone)]
pub enum Item {
    /// A call: the hot path, kept small. Its row is encoded already.
    Call(Call),
    /// Any other event.
    Command(Box<Command>),
    /// An event that can't be applied.
    Dead(Box<DeadLetter>),
}

impl Item {
    /// Position of the event in the log.
    pub fn position(&self) -> Position {
        match self {
            Self::Call(call) => call.position,
            Self::Command(command) => command.position(),
            Self::Dead(letter) => letter.position,
        }
    }

    /// The month whose partition the event's row goes to, if it is a call.
    pub fn month(&self) -> Option<Month> {
        match self {
            Self::Call(call) => Some(call.month),
            Self::Command(_) | Self::Dead(_) => None,
        }
    }

    /// Whether it is a link of a user's audit chain, which is never passed over.
    pub fn is_audited(&self) -> bool {
        matches!(self, Self::Command(command) if matches!(**command, Command::Audit(_)))
    }

    /// The event's type.
    pub fn event_type(&self) -> &str {
        match self {
            Self::Call(_) => event_type::API_CALLED,
            Self::Command(command) => command.event_type(),
            Self::Dead(letter) => &letter.event_type,
        }
    }
}

/// The part of a call that the sums need; the rest is in its encoded row.
#[derive(Debug, Clone)]
pub struct Call {
    /// The row's id.
    pub id: Uuid,
    /// Whether the id must be claimed: a client chose it.
    pub claimed: bool,
    /// User who made the call.
    pub user: UserId,
    /// Time at which it was admitted or happened.
    pub created_at: DateTime<Utc>,
    /// The month of `created_at`.
    pub month: Month,
    /// Position in the log.
    pub position: Position,
    /// Its cost in units.
    pub units: u32,
    /// Duration in milliseconds, if known.
    pub response_time_ms: Option<u32>,
    /// Category that it counts in.
    pub category: Category,
    /// Whether it counts.
    pub counted: bool,
    /// Hash of the request that a proxy asked about, if the call has one: a request counts once within a minute.
    pub request: Option<Uuid>,
    /// The API key that it came with, if it did.
    pub key_id: Option<KeyId>,
    /// Whether sealed fields were opened for its row.
    pub opened: bool,
    /// The bytes of its row among the batch's.
    pub tuple: Range<usize>,
}

impl Call {
    /// The key of its row.
    pub(super) fn row_key(&self) -> RowKey {
        RowKey { user: self.user, created_at: self.created_at, id: self.id }
    }

    /// The mark that tells the call from all others of a batch: a claimed id, which is its user's, counts once whatever
    /// its time; an id of our own belongs to one time.
    pub(super) fn dedup_key(&self) -> (Uuid, i64, Uuid) {
        if self.claimed {
            (self.id, 0, Uuid::nil())
        } else {
            (self.id, self.created_at.timestamp_micros(), self.user.get())
        }
    }
}

/// An event other than a call.
#[derive(Debug, Clone)]
pub enum Command {
    /// A call recorded earlier ended.
    Complete(Completion),
    /// A month's counters start anew.
    Reset {
        /// Position in the log.
        position: Position,
        /// Its id, which is claimed.
        claim: Uuid,
        /// User of the month.
        user: UserId,
        /// The month.
        month: Month,
        /// Time of the decision.
        at: DateTime<Utc>,
        /// The same for the security log.
        act: Act,
    },
    /// A plan changes.
    ChangePlan {
        /// Its id, which is claimed.
        claim: Uuid,
        /// The change.
        change: PlanChange,
        /// The same for the security log.
        act: Act,
    },
    /// Calls were refused.
    Reject(Rejection),
    /// Our own endpoints were called.
    CountOwn(OwnCallsRow),
    /// A threshold was crossed.
    Cross(Crossing),
    /// A month is closed.
    Close {
        /// Position in the log.
        position: Position,
        /// The month.
        month: Month,
        /// Time of the closing.
        at: DateTime<Utc>,
    },
    /// A generation of claims ends.
    TurnClaims {
        /// Position in the log.
        position: Position,
        /// Number of the generation.
        ended: u64,
    },
    /// A link of a user's audit chain.
    Audit(Box<Audited>),
    /// Credentials were refused.
    Fail(AuthFailuresRow),
    /// Nothing is projected from it: an accepted gap, which is in `accepted_gaps` before the projector can pass it.
    Nothing(Position),
}

impl Command {
    /// Whether what comes after it in a batch is applied after it: it needs all that was before it, and nothing else.
    pub(super) fn ends_segment(&self) -> bool {
        matches!(self, Self::Close { .. } | Self::TurnClaims { .. })
    }

    fn position(&self) -> Position {
        match self {
            Self::Complete(completion) => completion.position,
            Self::ChangePlan { change, .. } => change.position,
            Self::Reject(rejection) => rejection.position,
            Self::CountOwn(row) => row.position,
            Self::Fail(row) => row.position,
            Self::Cross(crossing) => crossing.position,
            Self::Audit(audited) => audited.link.position,
            Self::Reset { position, .. }
            | Self::Close { position, .. }
            | Self::TurnClaims { position, .. }
            | Self::Nothing(position) => *position,
        }
    }

    fn event_type(&self) -> &'static str {
        match self {
            Self::Complete(_) => event_type::CALL_COMPLETED,
            Self::Reset { .. } => event_type::USAGE_RESET,
            Self::ChangePlan { .. } => event_type::PLAN_CHANGED,
            Self::Reject(_) => event_type::LIMIT_REJECTED,
            Self::CountOwn(_) => event_type::OWN_CALLS,
            Self::Fail(_) => event_type::AUTH_FAILED,
            Self::Cross(_) => event_type::LIMIT_THRESHOLD_CROSSED,
            Self::Close { .. } => event_type::PERIOD_CLOSED,
            Self::TurnClaims { .. } => event_type::CLAIMS_TURNED,
            Self::Audit(audited) => audited.event_type(),
            Self::Nothing(_) => event_type::GAP_ACCEPTED,
        }
    }
}
