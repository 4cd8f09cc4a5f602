//! Counting the log in memory, as the projector counts it into the tables.
//!
//! Memory: an entry for every user's month with calls, and for each category in it; 17 to 40 bytes for every id that
//! a client chose (`claims.rs`); as much for every call of our own of the last two days, and for every request of a
//! proxy's of the last twenty minutes; some 100 bytes for a call whose end is not known yet, of the last four hours; an
//! entry for every user's month that changed after its closing.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use events::{ApiCalled, Body, CallCompleted, Event, EventErrorKind, LastCall, REQUESTS_KEPT};
use ledger::{Category, Month, UserId};
use nats::RawFrame;
use store::Position;
use store::operations::recount::{Calls, Summary};
use store::projection::periods::LateUnits;
use uuid::Uuid;

use super::audit::Audit;
use super::claims::Claims;
use super::recent::{IdMap, Recent, with_time};

/// Time for which a request is remembered by its idempotency key, and its event can be published again.
const OWN_IDS_PERIOD: TimeDelta = TimeDelta::hours(25);
/// Time for which a call is remembered until it ends. It can be completed for an hour.
const OPEN_CALLS_PERIOD: TimeDelta = TimeDelta::hours(2);
const HOUR_US: i64 = 3_600_000_000;
const CATEGORIES: [Category; 3] = [Category::Analyze, Category::Auth, Category::Other];
/// The last 48 bits of an id.
const ID_MASK: u64 = 0xffff_ffff_ffff;

/// Sums of a part of the log.
#[derive(Debug)]
pub(crate) struct Tally {
    only: Option<UserId>,
    /// Events that were not applied.
    dead: HashSet<Position>,
    users: IdMap<u128, u32>,
    owners: Vec<Owner>,
    /// Sums of the calls themselves, whatever was reset since.
    calls: IdMap<u64, Bucket>,
    claims: Claims,
    own_ids: Recent<()>,
    /// The last calls of proxies' requests.
    requests: Recent<LastCall>,
    open_calls: Recent<OpenCall>,
    closed: BTreeSet<Month>,
    /// Units by category that came after their month's closing, by owner, month and number of closings before them.
    late: HashMap<(u32, Month, i32), [i64; 3]>,
    unmatched: Vec<Unmatched>,
    events: u64,
    /// Time at which the log stored the last frame.
    log_time: DateTime<Utc>,
    earlier_build: Option<u64>,
    /// The audit chains, if they are asked for.
    audit: Option<Audit>,
    /// The hour of the last call, its month, and whether that is closed: calls that follow each other mostly share
    /// them.
    last_hour: (i64, Month, bool),
}

/// A completion whose call is not remembered.
#[derive(Debug, Clone)]
pub(crate) struct Unmatched {
    pub(crate) user: UserId,
    pub(crate) completed: CallCompleted,
    pub(crate) position: Position,
}

#[derive(Debug)]
struct Owner {
    user: UserId,
    months: Vec<(Month, Sums)>,
}

#[derive(Debug, Default, Clone)]
struct Sums {
    units: [i64; 3],
    total_response_time_ms: i64,
    timed_calls: i64,
    last_updated: DateTime<Utc>,
    reset: Position,
}

#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    units: i64,
    calls: i64,
    total_response_time_ms: i64,
    timed_calls: i64,
    marks: i64,
}

/// The part of a call that completing it needs.
#[derive(Debug)]
struct OpenCall {
    owner: u32,
    time_us: i64,
    position: Position,
    units: u32,
    response_time_ms: Option<u32>,
    category: u8,
    counted: bool,
    completed: bool,
}

impl Tally {
    /// Nothing counted yet; of one user if `only` is given, and without these dead letters.
    pub(crate) fn new(only: Option<UserId>, dead: HashSet<Position>) -> Self {
        Self {
            only,
            dead,
            users: IdMap::default(),
            owners: Vec::new(),
            calls: IdMap::default(),
            claims: Claims::default(),
            own_ids: Recent::new(OWN_IDS_PERIOD),
            requests: Recent::new(REQUESTS_KEPT),
            open_calls: Recent::new(OPEN_CALLS_PERIOD),
            closed: BTreeSet::new(),
            late: HashMap::new(),
            unmatched: Vec::new(),
            events: 0,
            log_time: DateTime::default(),
            earlier_build: None,
            audit: None,
            last_hour: (i64::MIN, Month::FIRST, false),
        }
    }

    /// The same, which follows the audit chains too.
    pub(crate) fn with_audit(self) -> Self {
        Self { audit: Some(Audit::default()), ..self }
    }

    /// The audit chains and the tokens, if they were asked for.
    pub(crate) fn audit(&self) -> Option<&Audit> {
        self.audit.as_ref()
    }

    /// Number of events that were read.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// Further events that were not applied.
    pub(crate) fn add_dead(&mut self, dead: impl IntoIterator<Item = Position>) {
        self.dead.extend(dead);
    }

    /// The dead letters that it knows.
    pub(crate) fn dead(&self) -> &HashSet<Position> {
        &self.dead
    }

    /// The first frame of a build before the first release, whose log is not read.
    pub(crate) fn earlier_build(&self) -> Option<u64> {
        self.earlier_build
    }

    /// Completions whose calls it did not know.
    pub(crate) fn unmatched(&self) -> &[Unmatched] {
        &self.unmatched
    }

    /// Counts a frame. What can't be decoded is a dead letter and counts nothing.
    pub(crate) fn frame(&mut self, frame: &RawFrame) {
        self.log_time = frame.time;
        self.own_ids.advance(frame.time);
        self.requests.advance(frame.time);
        self.open_calls.advance(frame.time);
        let Ok(events) = events::decode_batch(&frame.body) else { return };
        let mut raw = Vec::new();
        for (idx, event) in (0_u16..).zip(events) {
            self.events += 1;
            let position = Position { seq: frame.seq, idx };
            if !self.dead.is_empty() && self.dead.contains(&position) {
                continue;
            }
            match event {
                Ok(event) if event.body.is_audited() => {
                    if raw.is_empty() && self.audit.is_some() {
                        raw = events::raw_events(&frame.body).unwrap_or_default();
                    }
                    if let Some(raw) = raw.get(usize::from(idx)) {
                        self.link(position, &event, raw);
                    }
                }
                Ok(event) => self.event(position, &event),
                Err(error) if error.kind == EventErrorKind::EarlierBuild => {
                    self.earlier_build.get_or_insert(frame.seq);
                }
                // Other errors are dead letters.
                Err(_) => {}
            }
        }
    }

    /// The sums, in no order.
    pub(crate) fn sums(&self) -> (Vec<Summary>, Vec<Calls>) {
        let summaries = self.owners.iter().flat_map(|owner| {
            owner.months.iter().map(|(month, sums)| Summary {
                user: owner.user,
                month: *month,
                units: sums.units,
                total_response_time_ms: sums.total_response_time_ms,
                timed_calls: sums.timed_calls,
                last_updated: sums.last_updated,
                reset: sums.reset,
            })
        });
        let calls = self.calls.iter().map(|(key, bucket)| {
            let (owner, month, category, counted) = split_bucket_key(*key);
            Calls {
                user: self.owners[owner].user,
                month,
                category: CATEGORIES[category],
                counted,
                units: bucket.units,
                calls: bucket.calls,
                total_response_time_ms: bucket.total_response_time_ms,
                timed_calls: bucket.timed_calls,
                marks: bucket.marks,
            }
        });
        (summaries.collect(), calls.collect())
    }

    /// What was added to months after their closings, in no order.
    pub(crate) fn late(&self) -> Vec<LateUnits> {
        let late = self.late.iter().map(|((owner, month, closings), units)| LateUnits {
            user: self.owners[*owner as usize].user,
            of_month: *month,
            closings: *closings,
            units: *units,
            retried: [0; 3],
        });
        late.collect()
    }

    fn event(&mut self, position: Position, event: &Event<'_>) {
        match &event.body {
            Body::PeriodClosed(closed) => return self.close(closed.month),
            Body::ClaimsTurned(turned) => return self.claims.turn(turned.generation),
            _ => {}
        }
        let Some(user) = event.subject else { return };
        if self.only.is_some_and(|only| only != user) {
            return;
        }
        match &event.body {
            Body::ApiCalled(called) => self.call(position, user, event, called),
            Body::CallCompleted(completed) => self.complete(position, user, event.time, completed),
            Body::UsageReset(reset) if self.claim(event) && !self.closed.contains(&reset.month) => {
                let owner = self.owner(user);
                let sums = self.month(owner, reset.month);
                let last_updated = sums.last_updated.max(event.time);
                *sums = Sums { reset: position, last_updated, ..Sums::default() };
            }
            _ => {}
        }
    }

    fn link(&mut self, position: Position, event: &Event<'_>, raw: &str) {
        let Some(user) = event.subject else { return };
        if self.only.is_none_or(|only| only == user)
            && self.audit.is_some()
            && self.claim(event)
            && let Some(audit) = &mut self.audit
        {
            audit.add(position, user, event, raw);
        }
    }

    fn claim(&mut self, event: &Event<'_>) -> bool {
        event.row_id().is_ok_and(|id| self.claims.event(id.as_u128()))
    }

    fn call(&mut self, position: Position, user: UserId, event: &Event<'_>, called: &ApiCalled<'_>) {
        let Ok(id) = event.row_id() else { return };
        let id = id.as_u128();
        let time_us = event.time.timestamp_micros();
        let own = !events::needs_claim(&event.source);
        let new =
            if own { self.own_ids.insert(with_time(id, time_us), ()) } else { self.claims.call(id, time_us) };
        if !new || called.request.is_some_and(|request| !self.is_another_request(request, event.time)) {
            return;
        }
        let owner = self.owner(user);
        let category = category_index(called.category);
        if own && called.status_code.is_none() {
            let open = OpenCall {
                owner,
                time_us,
                position,
                units: called.units,
                response_time_ms: called.response_time_ms,
                category: u8::try_from(category).unwrap_or_default(),
                counted: called.counted,
                completed: false,
            };
            self.open_calls.insert(id, open);
        }
        let hour = time_us.div_euclid(HOUR_US);
        if self.last_hour.0 != hour {
            let month = Month::of(event.time);
            self.last_hour = (hour, month, self.closed.contains(&month));
        }
        let (_, month, is_closed) = self.last_hour;
        let bucket = self.calls.entry(bucket_key(owner, month, category, called.counted)).or_default();
        bucket.add(1, called.units, called.response_time_ms, mark(id, time_us));
        if called.counted {
            if is_closed {
                self.add_late(owner, month, 1, category, called.units);
            }
            let sums = self.month(owner, month);
            sums.add(1, category, called.units, called.response_time_ms);
            sums.last_updated = sums.last_updated.max(event.time);
        }
    }

    /// Whether the last call of this request is another one; the call is the request's last one then.
    fn is_another_request(&mut self, request: Uuid, created_at: DateTime<Utc>) -> bool {
        let call = LastCall { created_at, stored_at: self.log_time };
        let is_another = self.requests.get_mut(request.as_u128()).is_none_or(|last| !last.is_same(&call));
        if is_another {
            self.requests.put(request.as_u128(), call);
        }
        is_another
    }

    fn complete(&mut self, position: Position, user: UserId, at: DateTime<Utc>, completed: &CallCompleted) {
        let id = completed.call_id.as_u128();
        let time_us = completed.call_time.timestamp_micros();
        let owner = self.owner(user);
        let found = self.open_calls.get_mut(id).filter(|call| call.owner == owner && call.time_us == time_us);
        let Some(call) = found else {
            self.unmatched.push(Unmatched { user, completed: completed.clone(), position });
            return;
        };
        if std::mem::replace(&mut call.completed, true) {
            return;
        }
        let (call_position, units, before_ms, counted) =
            (call.position, call.units, call.response_time_ms, call.counted);
        let category = usize::from(call.category);
        let after_ms = completed.response_time_ms.or(before_ms);
        let (month, mark) = (Month::of(completed.call_time), mark(id, time_us));
        let key = |counted| bucket_key(owner, month, category, counted);
        self.calls.entry(key(counted)).or_default().add(-1, units, before_ms, mark);
        let counts = counted && completed.counted;
        self.calls.entry(key(counts)).or_default().add(1, units, after_ms, mark);
        if !counted {
            return;
        }
        let sums = self.month(owner, month);
        if sums.reset < call_position {
            sums.add(-1, category, units, before_ms);
            if counts {
                sums.add(1, category, units, after_ms);
            }
            sums.last_updated = sums.last_updated.max(at);
            if !counts && self.closed.contains(&month) {
                self.add_late(owner, month, -1, category, units);
            }
        }
        tracing::trace!(%position, "a call was completed");
    }

    fn close(&mut self, month: Month) {
        self.closed.insert(month);
        self.last_hour.0 = i64::MIN;
    }

    fn add_late(&mut self, owner: u32, month: Month, sign: i64, category: usize, units: u32) {
        let closings = i32::try_from(self.closed.len()).unwrap_or(i32::MAX);
        self.late.entry((owner, month, closings)).or_default()[category] += sign * i64::from(units);
    }

    fn owner(&mut self, user: UserId) -> u32 {
        let next = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
        let owner = *self.users.entry(user.get().as_u128()).or_insert(next);
        if owner == next {
            self.owners.push(Owner { user, months: Vec::new() });
        }
        owner
    }

    fn month(&mut self, owner: u32, month: Month) -> &mut Sums {
        let months = &mut self.owners[owner as usize].months;
        // The last one is nearly always the one.
        let at = months.iter().rposition(|(of, _)| *of == month).unwrap_or_else(|| {
            months.push((month, Sums::default()));
            months.len() - 1
        });
        &mut months[at].1
    }
}

impl Sums {
    fn add(&mut self, sign: i64, category: usize, units: u32, response_time_ms: Option<u32>) {
        self.units[category] += sign * i64::from(units);
        if let Some(ms) = response_time_ms {
            self.total_response_time_ms += sign * i64::from(ms);
            self.timed_calls += sign;
        }
    }
}

impl Bucket {
    fn add(&mut self, sign: i64, units: u32, response_time_ms: Option<u32>, mark: i64) {
        self.units += sign * i64::from(units);
        self.calls += sign;
        if let Some(ms) = response_time_ms {
            self.total_response_time_ms += sign * i64::from(ms);
            self.timed_calls += sign;
        }
        self.marks ^= mark;
    }
}

fn category_index(category: Category) -> usize {
    match category {
        Category::Analyze => 0,
        Category::Auth => 1,
        Category::Other => 2,
    }
}

/// What tells a call from others in a sum of calls: its id's last 48 bits and its time.
fn mark(id: u128, time_us: i64) -> i64 {
    (Uuid::from_u128(id).as_u64_pair().1 & ID_MASK).cast_signed() ^ time_us
}

/// Owner, year, month, category and whether it counts, in one word: 32, 25, 4, 2 and 1 bits.
fn bucket_key(owner: u32, month: Month, category: usize, counted: bool) -> u64 {
    let month = u64::from(month.year()) << 4 | u64::from(month.number());
    u64::from(owner) << 32 | month << 3 | (category as u64) << 1 | u64::from(counted)
}

fn split_bucket_key(key: u64) -> (usize, Month, usize, bool) {
    let (year, number) = ((key >> 7 & 0x01ff_ffff) as u32, (key >> 3 & 0xf) as u32);
    let month = Month::new(year, number).unwrap_or(Month::FIRST);
    ((key >> 32) as usize, month, (key >> 1 & 3) as usize, key & 1 == 1)
}
