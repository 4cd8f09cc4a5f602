//! What counting needs of an event, packed: some 60 bytes a call.

use chrono::{DateTime, Utc};
use events::{ApiCalled, CallCompleted, Event, LastCall, UsageReset};
use ledger::{Category, Month, UserId};
use store::Position;
use store::projection::audit_chain::{Action, Hash, Link};
use uuid::Uuid;

use super::ids::with_time;
use super::packed::{Packed, Packer};

/// An event of a user.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) position: Position,
    pub(super) user: UserId,
    pub(super) what: What<'a>,
}

#[derive(Debug)]
pub(super) enum What<'a> {
    Call(Call),
    Completed(Completed),
    Reset { claim: Uuid, month: Month, at: DateTime<Utc> },
    Link(LinkEvent<'a>),
}

/// A call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    /// Its row's id.
    pub(super) id: u128,
    pub(super) time_us: i64,
    pub(super) units: u32,
    pub(super) response_time_ms: Option<u32>,
    /// Index of its category.
    pub(super) category: u8,
    pub(super) counted: bool,
    /// Whether our own api chose its id.
    pub(super) own: bool,
    /// Whether it can be completed.
    pub(super) open: bool,
    /// The API key that it came with.
    pub(super) key: Option<u128>,
    /// The request that it is of, and when the log stored it.
    pub(super) request: Option<(u128, DateTime<Utc>)>,
}

/// The end of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Completed {
    pub(super) call_id: u128,
    pub(super) call_time_us: i64,
    pub(super) at: DateTime<Utc>,
    pub(super) response_time_ms: Option<u32>,
    pub(super) counted: bool,
}

/// An event of an audit chain.
#[derive(Debug)]
pub(super) struct LinkEvent<'a> {
    pub(super) event_id: Uuid,
    pub(super) action: Action,
    pub(super) token_id: Option<Uuid>,
    pub(super) token_type: Option<&'a str>,
    pub(super) purpose: Option<&'a str>,
    pub(super) fingerprint: Option<&'a str>,
    pub(super) actor_kind: &'a str,
    pub(super) actor_id: &'a str,
    pub(super) at: DateTime<Utc>,
    pub(super) event_hash: Hash,
}

const CALL: u8 = 0;
const COMPLETED: u8 = 1;
const RESET: u8 = 2;
const LINK: u8 = 3;

const COUNTED: u8 = 1;
const OWN: u8 = 2;
const OPEN: u8 = 4;
const OF_REQUEST: u8 = 8;
const TIMED: u8 = 16;
const KEYED: u8 = 32;
const CATEGORY_SHIFT: u8 = 6;

impl Call {
    /// The call of an event, whose frame the log stored at `stored_at`; none if its id is none.
    pub(super) fn of(event: &Event<'_>, called: &ApiCalled<'_>, stored_at: DateTime<Utc>) -> Option<Self> {
        let own = !events::needs_claim(&event.source);
        Some(Self {
            id: event.row_id().ok()?.as_u128(),
            time_us: event.time.timestamp_micros(),
            units: called.units,
            response_time_ms: called.response_time_ms,
            category: match called.category {
                Category::Analyze => 0,
                Category::Auth => 1,
                Category::Other => 2,
            },
            counted: called.counted,
            own,
            open: own && called.status_code.is_none(),
            key: called.key_id.map(|key| key.as_u128()),
            request: called.request.map(|request| (request.as_u128(), stored_at)),
        })
    }

    /// Its row: the same id at another time is another one.
    pub(super) fn row(&self) -> u128 {
        with_time(self.id, self.time_us)
    }

    /// The call as one that others of its request are compared with.
    pub(super) fn last_call(&self, stored_at: DateTime<Utc>) -> LastCall {
        LastCall { created_at: DateTime::from_timestamp_micros(self.time_us).unwrap_or_default(), stored_at }
    }
}

impl<'a> What<'a> {
    pub(super) fn completed(completed: &CallCompleted, at: DateTime<Utc>) -> Self {
        Self::Completed(Completed {
            call_id: completed.call_id.as_u128(),
            call_time_us: completed.call_time.timestamp_micros(),
            at,
            response_time_ms: completed.response_time_ms,
            counted: completed.counted,
        })
    }

    /// None if its id is none.
    pub(super) fn reset(event: &Event<'_>, reset: &UsageReset<'_>) -> Option<Self> {
        Some(Self::Reset { claim: event.row_id().ok()?, month: reset.month, at: event.time })
    }

    pub(super) fn link(link: &'a Link) -> Self {
        Self::Link(LinkEvent {
            event_id: link.event_id,
            action: link.action,
            token_id: link.token_id,
            token_type: link.token_type.as_deref(),
            purpose: link.purpose.as_deref(),
            fingerprint: link.fingerprint.as_deref(),
            actor_kind: link.actor_kind,
            actor_id: &link.actor_id,
            at: link.at,
            event_hash: link.event_hash,
        })
    }
}

impl<'a> Record<'a> {
    /// Writes it into a packer that begins anew.
    pub(super) fn pack<'p>(&self, packer: &'p mut Packer) -> &'p [u8] {
        let kind = match &self.what {
            What::Call(_) => CALL,
            What::Completed(_) => COMPLETED,
            What::Reset { .. } => RESET,
            What::Link(_) => LINK,
        };
        packer.start(kind).position(self.position).user(self.user);
        match &self.what {
            What::Call(call) => pack_call(call, packer),
            What::Completed(completed) => {
                packer.u128(completed.call_id).i64(completed.call_time_us).time(completed.at);
                packer
                    .option_i64(completed.response_time_ms.map(i64::from))
                    .bytes(&[u8::from(completed.counted)]);
            }
            What::Reset { claim, month, at } => {
                packer.uuid(*claim).month(*month).time(*at);
            }
            What::Link(link) => {
                packer.uuid(link.event_id).text(Some(link.action.as_str()));
                packer.bytes(&[u8::from(link.token_id.is_some())]).uuid(link.token_id.unwrap_or_default());
                packer.text(link.token_type).text(link.purpose).text(link.fingerprint);
                packer.text(Some(link.actor_kind)).text(Some(link.actor_id));
                packer.time(link.at).bytes(&link.event_hash);
            }
        }
        packer.record()
    }

    /// Reads it; none: it was not written by [`Record::pack`].
    pub(super) fn unpack(record: &'a [u8]) -> Option<Self> {
        let mut packed = Packed(record);
        let kind = packed.u8()?;
        let (position, user) = (packed.position()?, packed.user()?);
        let what = match kind {
            CALL => What::Call(unpack_call(&mut packed)?),
            COMPLETED => What::Completed(Completed {
                call_id: packed.u128()?,
                call_time_us: packed.i64()?,
                at: packed.time()?,
                response_time_ms: packed.option_i64()?.and_then(|ms| u32::try_from(ms).ok()),
                counted: packed.u8()? == 1,
            }),
            RESET => What::Reset { claim: packed.uuid()?, month: packed.month()?, at: packed.time()? },
            LINK => What::Link(unpack_link(&mut packed)?),
            _ => return None,
        };
        Some(Self { position, user, what })
    }
}

fn pack_call(call: &Call, packer: &mut Packer) {
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    let flags = flag(call.counted, COUNTED)
        | flag(call.own, OWN)
        | flag(call.open, OPEN)
        | flag(call.request.is_some(), OF_REQUEST)
        | flag(call.response_time_ms.is_some(), TIMED)
        | flag(call.key.is_some(), KEYED)
        | (call.category << CATEGORY_SHIFT);
    packer.bytes(&[flags]).u128(call.id).i64(call.time_us).u32(call.units);
    packer.u32(call.response_time_ms.unwrap_or(0));
    if let Some(key) = call.key {
        packer.u128(key);
    }
    if let Some((request, stored_at)) = call.request {
        packer.u128(request).time(stored_at);
    }
}

fn unpack_call(packed: &mut Packed<'_>) -> Option<Call> {
    let flags = packed.u8()?;
    let is = |flag: u8| flags & flag != 0;
    let (id, time_us, units, ms) = (packed.u128()?, packed.i64()?, packed.u32()?, packed.u32()?);
    let key = if is(KEYED) { Some(packed.u128()?) } else { None };
    let request = if is(OF_REQUEST) { Some((packed.u128()?, packed.time()?)) } else { None };
    Some(Call {
        id,
        time_us,
        units,
        response_time_ms: is(TIMED).then_some(ms),
        category: (flags >> CATEGORY_SHIFT).min(2),
        counted: is(COUNTED),
        own: is(OWN),
        open: is(OPEN),
        key,
        request,
    })
}

fn unpack_link<'a>(packed: &mut Packed<'a>) -> Option<LinkEvent<'a>> {
    let event_id = packed.uuid()?;
    let action = Action::of_name(packed.text()??)?;
    let (has_token, token_id) = (packed.u8()? == 1, packed.uuid()?);
    Some(LinkEvent {
        event_id,
        action,
        token_id: has_token.then_some(token_id),
        token_type: packed.text()?,
        purpose: packed.text()?,
        fingerprint: packed.text()?,
        actor_kind: packed.text()??,
        actor_id: packed.text()??,
        at: packed.time()?,
        event_hash: packed.array()?,
    })
}
