//! Parsing of frames into items: decoding, and encoding of the rows. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use events::{ApiCalled, Body, Event, EventError, EventErrorKind, Personal, PlanChanged};
use ledger::{KeyId, Month, UserId};
use nats::RawFrame;
use store::Position;
use store::projection::audit_chain::security_log::AuthFailuresRow;
use store::projection::completions::Completion;
use store::projection::dead_letters::DeadLetter;
use store::projection::gathered::{OwnCallsRow, Rejection};
use store::projection::subscriptions::PlanChange;
use store::projection::thresholds::Crossing;
use store::projection::usage_rows::{self, UsageRow};
use uuid::Uuid;

use super::acts;
use super::audited::Audited;
use super::fault::{BrokenLink, EventFault};
use super::item::{Call, Command, Item};
use super::personal::{self, Known, KnownDataKeys, Unreadable};

/// The events of some frames, decoded.
#[derive(Debug, Default)]
pub struct Parsed {
    items: Vec<Item>,
    /// The encoded rows of all calls, one after the other.
    tuples: Vec<u8>,
    frame_times: Vec<(u64, DateTime<Utc>)>,
    events: u64,
    month_text: MonthText,
    /// Users whose data keys are not known yet: what these sealed was left out.
    unknown_keys: BTreeSet<UserId>,
    unreadable: Unreadable,
    /// The first frame of a build whose log is not read.
    earlier_build: Option<u64>,
    /// The first event of an audit chain that cannot be read.
    broken_link: Option<BrokenLink>,
}

impl Parsed {
    /// Decodes the frames, which are whole and follow each other. What can't be decoded becomes a dead letter.
    pub fn of(frames: &[RawFrame], keys: &KnownDataKeys) -> Self {
        let bytes = frames.iter().map(|frame| frame.body.len()).sum();
        let count = frames.iter().map(RawFrame::count).sum();
        let mut parsed =
            Self { items: Vec::with_capacity(count), tuples: Vec::with_capacity(bytes), ..Self::default() };
        for frame in frames {
            parsed.frame(frame, None, keys);
        }
        parsed
    }

    /// Decodes the one event of a frame: a dead letter that is tried again.
    pub fn one(frame: &RawFrame, idx: u16, keys: &KnownDataKeys) -> Self {
        let mut parsed = Self::default();
        parsed.frame(frame, Some(idx), keys);
        parsed
    }

    /// The items in the log's order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Number of events that the frames hold.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Users whose data keys must be looked up before it is parsed again; none, if it is complete.
    pub fn unknown_keys(&self) -> Vec<UserId> {
        self.unknown_keys.iter().copied().collect()
    }

    /// Counts and tells what did not open. To be called once, for what is complete.
    pub fn report_unreadable(&self) {
        self.unreadable.report();
    }

    /// The first frame of a build before the first release, whose log is not to be projected.
    pub fn earlier_build(&self) -> Option<u64> {
        self.earlier_build
    }

    /// Takes out the first event of a user's audit chain that cannot be read: it is not to be passed over.
    pub fn take_broken_link(&mut self) -> Option<BrokenLink> {
        self.broken_link.take()
    }

    /// Turns the calls of a month that takes no rows into dead letters.
    pub fn bury_month(&mut self, month: Month) {
        for index in 0..self.items.len() {
            if self.items[index].month() == Some(month) {
                let letter = self.dead_letter(&self.items[index], &EventFault::Detached(month));
                self.items[index] = Item::Dead(Box::new(letter));
            }
        }
    }

    /// The encoded row of a call.
    pub(super) fn tuple(&self, call: &Call) -> &[u8] {
        &self.tuples[call.tuple.clone()]
    }

    /// The dead letter that an item becomes.
    pub(super) fn dead_letter(&self, item: &Item, fault: &EventFault) -> DeadLetter {
        let position = item.position();
        DeadLetter {
            position,
            event_type: item.event_type().to_owned(),
            reason: fault.reason(),
            detail: fault.to_string(),
            recorded_at: self.stored_at(position),
        }
    }

    /// Time at which the log stored the frame at this position.
    pub(super) fn stored_at(&self, position: Position) -> DateTime<Utc> {
        let frame = self.frame_times.binary_search_by_key(&position.seq, |(seq, _)| *seq);
        frame.map(|at| self.frame_times[at].1).unwrap_or_default()
    }

    fn frame(&mut self, frame: &RawFrame, only: Option<u16>, keys: &KnownDataKeys) {
        self.frame_times.push((frame.seq, frame.time));
        let (mut found, mut raw) = (0_u16, Vec::new());
        match events::decode_batch(&frame.body) {
            Ok(events) => {
                for (idx, event) in (0_u16..).zip(events) {
                    found = idx + 1;
                    if only.is_none_or(|only| only == idx) {
                        let position = Position { seq: frame.seq, idx };
                        let item = if is_audited(&event) {
                            if raw.is_empty() {
                                // The body was read as a batch just now.
                                raw = events::raw_events(&frame.body).unwrap_or_default();
                            }
                            self.audited(position, event, raw.get(usize::from(idx)), frame.time, keys)
                        } else {
                            self.event(position, event, frame.time, keys)
                        };
                        self.items.push(item);
                    }
                }
                self.events += u64::from(found);
            }
            Err(error) => {
                let position = Position { seq: frame.seq, idx: 0 };
                self.items.push(dead(position, "", &EventFault::Frame(error), frame.time));
                return;
            }
        }
        if frame.count() != usize::from(found) && only.is_none_or(|only| only == found) {
            let fault = EventFault::Count { announced: frame.count(), found };
            let position = Position { seq: frame.seq, idx: found };
            self.items.push(dead(position, "", &fault, frame.time));
        }
    }

    fn audited(
        &mut self,
        position: Position,
        event: Result<Event<'_>, EventError>,
        raw: Option<&&str>,
        frame_time: DateTime<Utc>,
        keys: &KnownDataKeys,
    ) -> Item {
        let (event_type, fault) = match event {
            Ok(event) => {
                let link = match raw {
                    Some(raw) => self.link(position, &event, raw, keys),
                    None => Err(EventFault::NoBytes),
                };
                match link {
                    Ok(link) => return Item::Command(Box::new(Command::Audit(Box::new(link)))),
                    Err(fault) => (event.body.event_type().into_owned(), fault),
                }
            }
            Err(error) => (error.event_type.clone(), EventFault::Unreadable(error)),
        };
        let item = dead(position, &event_type, &fault, frame_time);
        self.broken_link.get_or_insert(BrokenLink { position, event_type, fault });
        item
    }

    fn link(
        &mut self,
        position: Position,
        event: &Event<'_>,
        raw: &str,
        keys: &KnownDataKeys,
    ) -> Result<Audited, EventFault> {
        if matches!(event.body, Body::Unknown { .. }) {
            return Err(EventFault::UnknownLink);
        }
        let sealed = event.personal();
        let user = event.subject.ok_or(EventFault::NoSubject)?;
        let of = |personal: Personal<'_>| Audited::of(position, user, event, raw, &personal);
        match sealed.map(|sealed| (sealed, keys.data_key(user))) {
            Some((sealed, Known::Key(key))) => personal::open(&key, &event.id, sealed, |opened| {
                if opened.is_none() {
                    self.unreadable.add(user, position);
                }
                of(opened.unwrap_or_default())
            }),
            Some((_, Known::Damaged)) => {
                self.unreadable.add(user, position);
                of(Personal::default())
            }
            Some((_, Known::NotYet)) => {
                self.unknown_keys.insert(user);
                of(Personal::default())
            }
            None | Some((_, Known::Destroyed)) => of(Personal::default()),
        }
    }

    fn event(
        &mut self,
        position: Position,
        event: Result<Event<'_>, EventError>,
        frame_time: DateTime<Utc>,
        keys: &KnownDataKeys,
    ) -> Item {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                if error.kind == EventErrorKind::EarlierBuild {
                    self.earlier_build.get_or_insert(position.seq);
                }
                let event_type = error.event_type.clone();
                return dead(position, &event_type, &EventFault::Unreadable(error), frame_time);
            }
        };
        if let Body::Unknown { .. } = event.body {
            let event_type = event.body.event_type();
            let fault = EventFault::UnknownType(event_type.clone().into_owned());
            return dead(position, &event_type, &fault, frame_time);
        }
        let item = match (&event.body, event.subject) {
            (Body::ApiCalled(called), Some(user)) => {
                self.call(position, user, &event, called, keys).map(Item::Call)
            }
            (Body::ApiCalled(_), None) => Err(EventFault::NoSubject),
            _ => command(position, &event).map(|command| Item::Command(Box::new(command))),
        };
        item.unwrap_or_else(|fault| dead(position, &event.body.event_type(), &fault, frame_time))
    }

    fn call(
        &mut self,
        position: Position,
        user: UserId,
        event: &Event<'_>,
        called: &ApiCalled<'_>,
        keys: &KnownDataKeys,
    ) -> Result<Call, EventFault> {
        let id = event.row_id().map_err(EventFault::Unreadable)?;
        let start = self.tuples.len();
        let mut has_opened = false;
        match called.personal.as_ref().map(|sealed| (sealed, keys.data_key(user))) {
            Some((sealed, Known::Key(key))) => {
                personal::open(&key, &event.id, sealed, |opened| {
                    has_opened = opened.is_some();
                    if opened.is_none() {
                        self.unreadable.add(user, position);
                    }
                    self.row(position, user, id, event, called, &opened.unwrap_or_default());
                });
            }
            Some((_, Known::Damaged)) => {
                self.unreadable.add(user, position);
                self.row(position, user, id, event, called, &Personal::default());
            }
            Some((_, Known::NotYet)) => {
                self.unknown_keys.insert(user);
            }
            None | Some((_, Known::Destroyed)) => {
                self.row(position, user, id, event, called, &Personal::default());
            }
        }
        Ok(Call {
            id,
            claimed: events::needs_claim(&event.source),
            user,
            created_at: event.time,
            month: Month::of(event.time),
            position,
            units: called.units,
            response_time_ms: called.response_time_ms,
            category: called.category,
            counted: called.counted,
            request: called.request,
            key_id: called.key_id.map(KeyId::new),
            opened: has_opened,
            tuple: start..self.tuples.len(),
        })
    }

    /// Encodes the call's row.
    fn row(
        &mut self,
        position: Position,
        user: UserId,
        id: Uuid,
        event: &Event<'_>,
        called: &ApiCalled<'_>,
        personal: &Personal<'_>,
    ) {
        let row = UsageRow {
            id,
            user,
            created_at: event.time,
            month_year: self.month_text.of(Month::of(event.time)),
            position,
            units: called.units,
            response_time_ms: called.response_time_ms,
            request_size: called.request_size,
            response_size: called.response_size,
            status_code: called.status_code,
            counted: called.counted,
            category: called.category,
            method: called.method.as_deref(),
            endpoint: &called.endpoint,
            ip_address: personal.ip_address.as_deref(),
            user_agent: personal.user_agent.as_deref(),
            key_id: called.key_id.map(KeyId::new),
        };
        usage_rows::encode(&row, &mut self.tuples);
    }
}

fn is_audited(event: &Result<Event<'_>, EventError>) -> bool {
    match event {
        Ok(event) => event.body.is_audited(),
        Err(error) => error.is_audited(),
    }
}

fn command(position: Position, event: &Event<'_>) -> Result<Command, EventFault> {
    let owner = || event.subject.ok_or(EventFault::NoSubject);
    let claim = || event.row_id().map_err(EventFault::Unreadable);
    Ok(match &event.body {
        Body::CallCompleted(completed) => Command::Complete(Completion {
            user: owner()?,
            call_id: completed.call_id,
            call_time: completed.call_time,
            position,
            at: event.time,
            status_code: completed.status_code,
            response_time_ms: completed.response_time_ms,
            response_size: completed.response_size,
            counted: completed.counted,
        }),
        Body::UsageReset(reset) => {
            let user = owner()?;
            let act = acts::of_reset(user, position, event, reset);
            Command::Reset { position, claim: claim()?, user, month: reset.month, at: event.time, act }
        }
        Body::PlanChanged(changed) => {
            let user = owner()?;
            let change = plan_change(user, position, event.time, changed);
            let act = acts::of_plan(user, position, event, changed);
            Command::ChangePlan { claim: claim()?, change, act }
        }
        Body::LimitRejected(rejected) => Command::Reject(Rejection {
            user: owner()?,
            position,
            meter: rejected.meter,
            window_start: rejected.window_start,
            count: rejected.count,
            shadow: rejected.shadow,
            key_id: rejected.key_id,
        }),
        Body::OwnCalls(own) => Command::CountOwn(OwnCallsRow {
            user: owner()?,
            position,
            window_start: own.window_start,
            counts: own.counts_json(),
        }),
        Body::AuthFailed(failed) => Command::Fail(AuthFailuresRow {
            position,
            window_start: failed.window_start,
            counts: failed.counts_json(),
            other: failed.other,
        }),
        Body::LimitThresholdCrossed(crossed) => Command::Cross(Crossing {
            user: owner()?,
            month: crossed.month,
            meter: crossed.meter,
            threshold_percent: i16::from(crossed.threshold_percent),
            crossed_at: event.time,
            position,
        }),
        Body::PeriodClosed(closed) => Command::Close { position, month: closed.month, at: event.time },
        Body::ClaimsTurned(turned) => Command::TurnClaims { position, ended: turned.generation },
        Body::GapAccepted(_)
        | Body::ApiCalled(_)
        | Body::TokenStored(_)
        | Body::TokenDeleted(_)
        | Body::TokenUsed(_)
        | Body::UserErased(_)
        | Body::ApiKeyCreated(_)
        | Body::ApiKeyChanged(_)
        | Body::ApiKeyRotated(_)
        | Body::ApiKeyRevoked(_)
        | Body::Account(..)
        | Body::Unknown { .. } => Command::Nothing(position),
    })
}

fn plan_change(
    user: UserId,
    position: Position,
    changed_at: DateTime<Utc>,
    changed: &PlanChanged<'_>,
) -> PlanChange {
    PlanChange {
        user,
        position,
        plan_name: changed.plan_name.as_str().to_owned(),
        monthly_api_limit: changed.monthly_api_limit,
        analyze_limit: changed.analyze_limit,
        price_monthly: changed.price_monthly.to_string(),
        currency: changed.currency.as_str().to_owned(),
        effective_at: changed.effective_at,
        changed_at,
        reason: changed.reason.as_deref().map(str::to_owned),
        source_event_id: changed.source_event_id.as_deref().map(str::to_owned),
    }
}

fn dead(position: Position, event_type: &str, fault: &EventFault, recorded_at: DateTime<Utc>) -> Item {
    // PostgreSQL stores no NUL; what a broken event says of itself is not trusted to be free of it.
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(500).collect();
    Item::Dead(Box::new(DeadLetter {
        position,
        event_type: clean(event_type),
        reason: fault.reason(),
        detail: clean(&fault.to_string()),
        recorded_at,
    }))
}

/// The text of the last month asked for: calls that follow each other mostly share it.
#[derive(Debug, Default)]
struct MonthText {
    month: Option<Month>,
    text: String,
}

impl MonthText {
    fn of(&mut self, month: Month) -> &str {
        if self.month != Some(month) {
            self.month = Some(month);
            self.text.clear();
            // Writing to a String cannot fail.
            let _ = write!(self.text, "{month}");
        }
        &self.text
    }
}
