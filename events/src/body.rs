//! Bodies of events: one type for each event type and version.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use ledger::{Category, Currency, Meter, Money, Month, PlanName};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::account::{AccountAction, AccountFact, AuthFailed};
use crate::actor::{Actor, owned};
use crate::api_key::{ApiKeyRevoked, ApiKeyRotated, ApiKeyTerms};
use crate::event_type;
use crate::sealed::SealedJson;
use crate::token::{TokenDeleted, TokenStored, TokenUsed, UserErased};

/// Types that begin so belong to a user's audit chain, in whatever version. None of them may ever be passed over.
const AUDITED_PREFIXES: [&str; 2] = ["token.", "user."];
/// Of these the one that no user has, and so no chain.
const OF_NOBODY: &str = "user.auth_failed";

/// The body of an event, by its type and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// [`event_type::API_CALLED`]
    ApiCalled(ApiCalled<'a>),
    /// [`event_type::CALL_COMPLETED`]
    CallCompleted(CallCompleted),
    /// [`event_type::LIMIT_REJECTED`]
    LimitRejected(LimitRejected),
    /// [`event_type::OWN_CALLS`]
    OwnCalls(OwnCalls<'a>),
    /// [`event_type::LIMIT_THRESHOLD_CROSSED`]
    LimitThresholdCrossed(LimitThresholdCrossed),
    /// [`event_type::USAGE_RESET`]
    UsageReset(UsageReset<'a>),
    /// [`event_type::PLAN_CHANGED`]
    PlanChanged(PlanChanged<'a>),
    /// [`event_type::PERIOD_CLOSED`]
    PeriodClosed(PeriodClosed),
    /// [`event_type::CLAIMS_TURNED`]
    ClaimsTurned(ClaimsTurned),
    /// [`event_type::GAP_ACCEPTED`]
    GapAccepted(GapAccepted<'a>),
    /// [`event_type::TOKEN_STORED`]
    TokenStored(TokenStored<'a>),
    /// [`event_type::TOKEN_DELETED`]
    TokenDeleted(TokenDeleted<'a>),
    /// [`event_type::TOKEN_USED`]
    TokenUsed(TokenUsed<'a>),
    /// [`event_type::USER_ERASED`]
    UserErased(UserErased<'a>),
    /// [`event_type::API_KEY_CREATED`]
    ApiKeyCreated(ApiKeyTerms<'a>),
    /// [`event_type::API_KEY_CHANGED`]
    ApiKeyChanged(ApiKeyTerms<'a>),
    /// [`event_type::API_KEY_ROTATED`]
    ApiKeyRotated(ApiKeyRotated<'a>),
    /// [`event_type::API_KEY_REVOKED`]
    ApiKeyRevoked(ApiKeyRevoked<'a>),
    /// A type of [`AccountAction`].
    Account(AccountAction, AccountFact<'a>),
    /// [`event_type::AUTH_FAILED`]
    AuthFailed(AuthFailed<'a>),
    /// A type or version that this build does not know: kept for a later one, never an error.
    Unknown {
        /// The type without its version.
        event_type: Cow<'a, str>,
        /// The version; 0 when the type names none.
        version: u32,
    },
}

/// A call of the API, reported or admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiCalled<'a> {
    /// Normalised path, or the name that the rules gave; at most 2,048 bytes.
    #[serde(borrow)]
    pub endpoint: Cow<'a, str>,
    /// HTTP method, at most 32 token characters.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Cow<'a, str>>,
    /// 100 to 599; none while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// Time that the call took; at most 2^31 − 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_time_ms: Option<u32>,
    /// Address and user agent of the client ([`crate::Personal`]), sealed for this user and this event's id.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<SealedJson<'a>>,
    /// Bytes of the request; at most 2^63 − 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_size: Option<u64>,
    /// Bytes of the response; at most 2^63 − 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_size: Option<u64>,
    /// Its cost, 1 to 1,000,000.
    pub units: u32,
    /// Its category, by the rules.
    pub category: Category,
    /// Whether it counts.
    pub counted: bool,
    /// The API key that it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<Uuid>,
    /// The reservation that it commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_id: Option<Uuid>,
    /// The lease whose units it consumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Uuid>,
    /// The reporter, when not the user.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor<'a>>,
    /// Hash of the request that a proxy asked about ([`crate::request_hash`]): of all calls that have it within
    /// [`crate::SAME_REQUEST`] the first in the log counts, the others are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Uuid>,
}

impl<'a> ApiCalled<'a> {
    /// A counted call of one unit of this endpoint, all else unknown.
    pub fn new(endpoint: impl Into<Cow<'a, str>>, category: Category) -> Self {
        Self {
            endpoint: endpoint.into(),
            method: None,
            status_code: None,
            response_time_ms: None,
            personal: None,
            request_size: None,
            response_size: None,
            units: 1,
            category,
            counted: true,
            key_id: None,
            reservation_id: None,
            lease: None,
            actor: None,
            request: None,
        }
    }
}

/// The end of a call that was recorded before its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCompleted {
    /// Id of the call's row.
    pub call_id: Uuid,
    /// `created_at` of the call's row, which finds its partition.
    #[serde(with = "ledger::time::rfc3339")]
    pub call_time: DateTime<Utc>,
    /// 100 to 599.
    pub status_code: u16,
    /// Time that the call took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_time_ms: Option<u32>,
    /// Bytes of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_size: Option<u64>,
    /// Whether the call counts now that its end is known.
    pub counted: bool,
}

/// Calls that a limit refused (or would have, in shadow mode) within ten seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRejected {
    /// The meter whose limit it was.
    pub meter: Meter,
    /// Number of calls.
    pub count: u64,
    /// Start of the ten seconds.
    #[serde(with = "ledger::time::rfc3339")]
    pub window_start: DateTime<Utc>,
    /// Whether they were admitted all the same.
    pub shadow: bool,
    /// The API key whose budget it was, and no limit of the plan; the meter is `total` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<Uuid>,
}

/// Calls of our own endpoints by one user within ten seconds. No plan limits them, so they are counted and not listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnCalls<'a> {
    /// Start of the ten seconds.
    #[serde(with = "ledger::time::rfc3339")]
    pub window_start: DateTime<Utc>,
    /// The numbers of calls, [`OwnCalls::MAX_COUNTS`] at most.
    #[serde(borrow)]
    pub counts: Vec<OwnCallCount<'a>>,
}

impl OwnCalls<'_> {
    /// Routes and classes of status that are told apart.
    pub const MAX_NAMED: usize = 32;
    /// Counts of an event: those, and the rest by the five classes of status.
    pub const MAX_COUNTS: usize = Self::MAX_NAMED + 5;
    /// The route that stands for all beyond those that are told apart.
    pub const OTHER: &'static str = "other";

    /// The counts as JSON, as they stand in the event.
    pub fn counts_json(&self) -> String {
        serde_json::to_string(&self.counts).expect("texts and whole numbers are JSON")
    }
}

/// Number of calls of one route that were answered with one class of status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnCallCount<'a> {
    /// Method and template, such as `GET /api/tokens/{id}`, or [`OwnCalls::OTHER`].
    #[serde(borrow)]
    pub route: Cow<'a, str>,
    /// The class of the status.
    pub status: StatusClass,
    /// Number of calls.
    pub calls: u64,
}

/// The first digit of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StatusClass {
    /// 100 to 199.
    #[serde(rename = "1xx")]
    Informational,
    /// 200 to 299.
    #[serde(rename = "2xx")]
    Success,
    /// 300 to 399.
    #[serde(rename = "3xx")]
    Redirection,
    /// 400 to 499.
    #[serde(rename = "4xx")]
    ClientError,
    /// 500 and up.
    #[serde(rename = "5xx")]
    ServerError,
}

impl StatusClass {
    /// The class of this status.
    pub const fn of(status: u16) -> Self {
        match status {
            0..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

/// A meter reached 80 or 100 % of its limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitThresholdCrossed {
    /// The month that is counted.
    pub month: Month,
    /// The meter.
    pub meter: Meter,
    /// 80 or 100.
    pub threshold_percent: u8,
    /// Units used when it was noticed.
    pub used: u64,
    /// The limit then.
    pub limit: u64,
}

/// A month's counters start again from this event's position. The rows stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReset<'a> {
    /// The month.
    pub month: Month,
    /// Why.
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
    /// The actor.
    #[serde(borrow)]
    pub actor: Actor<'a>,
}

/// A user's plan from `effective_at` on, with the terms that it was sold with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanChanged<'a> {
    /// The plan.
    pub plan_name: PlanName,
    /// Units a month of all calls; null is unlimited.
    pub monthly_api_limit: Option<u64>,
    /// Units a month of analyze calls; null is unlimited.
    pub analyze_limit: Option<u64>,
    /// Price of a month, a decimal string.
    pub price_monthly: Money,
    /// ISO 4217.
    pub currency: Currency,
    /// The instant from which on it holds.
    #[serde(with = "ledger::time::rfc3339")]
    pub effective_at: DateTime<Utc>,
    /// The plan before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_plan: Option<PlanName>,
    /// Why.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// The id of the foreign event that caused it, such as a payment's.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub source_event_id: Option<Cow<'a, str>>,
    /// The actor.
    #[serde(borrow)]
    pub actor: Actor<'a>,
}

/// A month is closed: statements are issued from what is counted at this position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeriodClosed {
    /// The month.
    pub month: Month,
}

/// A generation of claimed ids ends: they are remembered until the next one ends, and no id before them is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimsTurned {
    /// Number of the generation that ends; the first one is 0. Published twice, it ends once.
    pub generation: u64,
}

/// An operator declared a range of the log lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapAccepted<'a> {
    /// First sequence of the range.
    pub seq_from: u64,
    /// Last sequence of the range.
    pub seq_to: u64,
    /// Fault of the range.
    pub kind: GapKind,
    /// Why it was accepted.
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
    /// The actor.
    #[serde(borrow)]
    pub actor: Actor<'a>,
}

/// Fault of an accepted range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapKind {
    /// Frames are missing inside the log.
    Missing,
    /// Frames are there, but not as they were written.
    Damaged,
    /// The log ends before the range, or was replaced from there on.
    Truncated,
}

impl GapKind {
    /// The name in JSON and in the tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Truncated => "truncated",
        }
    }
}

impl Body<'_> {
    /// The type and version as `CloudEvents` has them, like [`event_type::API_CALLED`].
    pub fn event_type(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::ApiCalled(_) => event_type::API_CALLED,
            Self::CallCompleted(_) => event_type::CALL_COMPLETED,
            Self::LimitRejected(_) => event_type::LIMIT_REJECTED,
            Self::OwnCalls(_) => event_type::OWN_CALLS,
            Self::LimitThresholdCrossed(_) => event_type::LIMIT_THRESHOLD_CROSSED,
            Self::UsageReset(_) => event_type::USAGE_RESET,
            Self::PlanChanged(_) => event_type::PLAN_CHANGED,
            Self::PeriodClosed(_) => event_type::PERIOD_CLOSED,
            Self::ClaimsTurned(_) => event_type::CLAIMS_TURNED,
            Self::GapAccepted(_) => event_type::GAP_ACCEPTED,
            Self::TokenStored(_) => event_type::TOKEN_STORED,
            Self::TokenDeleted(_) => event_type::TOKEN_DELETED,
            Self::TokenUsed(_) => event_type::TOKEN_USED,
            Self::UserErased(_) => event_type::USER_ERASED,
            Self::ApiKeyCreated(_) => event_type::API_KEY_CREATED,
            Self::ApiKeyChanged(_) => event_type::API_KEY_CHANGED,
            Self::ApiKeyRotated(_) => event_type::API_KEY_ROTATED,
            Self::ApiKeyRevoked(_) => event_type::API_KEY_REVOKED,
            Self::Account(action, _) => action.event_type(),
            Self::AuthFailed(_) => event_type::AUTH_FAILED,
            Self::Unknown { event_type, version: 0 } => return Cow::Owned(event_type.to_string()),
            Self::Unknown { event_type, version } => return Cow::Owned(format!("{event_type}.v{version}")),
        })
    }

    /// Whether it concerns the whole ledger rather than one user.
    pub const fn is_ledger_wide(&self) -> bool {
        matches!(
            self,
            Self::PeriodClosed(_) | Self::ClaimsTurned(_) | Self::GapAccepted(_) | Self::AuthFailed(_)
        )
    }

    /// Whether the event is a link of its user's audit chain, also one that this build cannot read: such an event is
    /// never passed over.
    pub fn is_audited(&self) -> bool {
        match self {
            Self::TokenStored(_)
            | Self::TokenDeleted(_)
            | Self::TokenUsed(_)
            | Self::UserErased(_)
            | Self::ApiKeyCreated(_)
            | Self::ApiKeyChanged(_)
            | Self::ApiKeyRotated(_)
            | Self::ApiKeyRevoked(_)
            | Self::Account(..) => true,
            Self::Unknown { event_type, .. } => is_audited(event_type),
            _ => false,
        }
    }

    pub(crate) fn into_owned(self) -> Body<'static> {
        match self {
            Self::ApiCalled(call) => Body::ApiCalled(call.into_owned()),
            Self::CallCompleted(body) => Body::CallCompleted(body),
            Self::LimitRejected(body) => Body::LimitRejected(body),
            Self::OwnCalls(body) => Body::OwnCalls(OwnCalls {
                window_start: body.window_start,
                counts: body
                    .counts
                    .into_iter()
                    .map(|count| OwnCallCount { route: owned(count.route), ..count })
                    .collect(),
            }),
            Self::LimitThresholdCrossed(body) => Body::LimitThresholdCrossed(body),
            Self::UsageReset(body) => Body::UsageReset(UsageReset {
                month: body.month,
                reason: owned(body.reason),
                actor: body.actor.into_owned(),
            }),
            Self::PlanChanged(body) => Body::PlanChanged(PlanChanged {
                reason: body.reason.map(owned),
                source_event_id: body.source_event_id.map(owned),
                actor: body.actor.into_owned(),
                ..body
            }),
            Self::PeriodClosed(body) => Body::PeriodClosed(body),
            Self::ClaimsTurned(body) => Body::ClaimsTurned(body),
            Self::GapAccepted(body) => Body::GapAccepted(GapAccepted {
                reason: owned(body.reason),
                actor: body.actor.into_owned(),
                ..body
            }),
            Self::TokenStored(body) => Body::TokenStored(body.into_owned()),
            Self::TokenDeleted(body) => Body::TokenDeleted(body.into_owned()),
            Self::TokenUsed(body) => Body::TokenUsed(body.into_owned()),
            Self::UserErased(body) => Body::UserErased(UserErased { actor: body.actor.into_owned() }),
            Self::ApiKeyCreated(body) => Body::ApiKeyCreated(body.into_owned()),
            Self::ApiKeyChanged(body) => Body::ApiKeyChanged(body.into_owned()),
            Self::ApiKeyRotated(body) => Body::ApiKeyRotated(body.into_owned()),
            Self::ApiKeyRevoked(body) => Body::ApiKeyRevoked(body.into_owned()),
            Self::Account(action, body) => Body::Account(action, body.into_owned()),
            Self::AuthFailed(body) => Body::AuthFailed(body.into_owned()),
            Self::Unknown { event_type, version } => Body::Unknown { event_type: owned(event_type), version },
        }
    }
}

pub(crate) fn is_audited(event_type: &str) -> bool {
    let version = event_type.strip_prefix(OF_NOBODY);
    let is_of_nobody = version.is_some_and(|version| version.is_empty() || version.starts_with('.'));
    !is_of_nobody && AUDITED_PREFIXES.iter().any(|prefix| event_type.starts_with(prefix))
}

impl ApiCalled<'_> {
    fn into_owned(self) -> ApiCalled<'static> {
        ApiCalled {
            endpoint: owned(self.endpoint),
            method: self.method.map(owned),
            personal: self.personal.map(SealedJson::into_owned),
            actor: self.actor.map(Actor::into_owned),
            status_code: self.status_code,
            response_time_ms: self.response_time_ms,
            request_size: self.request_size,
            response_size: self.response_size,
            units: self.units,
            category: self.category,
            counted: self.counted,
            key_id: self.key_id,
            reservation_id: self.reservation_id,
            lease: self.lease,
            request: self.request,
        }
    }
}
