//! Counting some users' records in memory, as the projector counts their events into the tables.
//!
//! Memory: 17 to 40 bytes for every id, as much again for a call that a proxy asked about, some 150 for one that can be
//! completed, and 200 for every user's month. `parts.rs` sees to it that the records are few enough.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use events::LastCall;
use ledger::{KeyId, Month, UserId};
use store::Position;
use store::operations::recount::{CallSums, StoredLink, Sums, checksum};
use uuid::Uuid;

use super::chains::Chains;
use super::claims::Claims;
use super::ids::{IdMap, IdSet};
use super::record::{Call, Completed, Record, What};
use super::totals::{Cut, Late, Totals};

/// What concerns all users, in the log's order: the months' closings, each month's first, and the turns of claims, each
/// generation's first.
#[derive(Debug, Default)]
pub(super) struct Wide {
    closings: Vec<(Position, Month)>,
    closed: BTreeSet<Month>,
    turns: Vec<(Position, u64)>,
}

impl Wide {
    /// The month whose statement lists what came to `of_month` after so many closings; none yet.
    pub(super) fn listed_in(&self, of_month: Month, closings: i32) -> Option<Month> {
        let behind = usize::try_from(closings).unwrap_or_default();
        let later = self.closings.iter().skip(behind).find(|(_, month)| *month > of_month);
        later.map(|(_, month)| *month)
    }

    /// The generation of this number ends; one that has ended already does not end again.
    pub(super) fn turn(&mut self, position: Position, ended: u64) {
        if self.turns.last().is_none_or(|(_, before)| *before < ended) {
            self.turns.push((position, ended));
        }
    }

    pub(super) fn close(&mut self, position: Position, month: Month) {
        if self.closed.insert(month) {
            self.closings.push((position, month));
        }
    }
}

/// What became of a record that the tally does not add up by itself.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is counted, or counts nothing.
    Whole,
    /// A link of an audit chain.
    Link(Box<StoredLink>),
    /// A completion whose call it does not know.
    Unmatched,
}

/// Sums of a part of the log.
#[derive(Debug)]
pub(super) struct Tally {
    wide: Arc<Wide>,
    /// Closings that are behind it.
    behind: usize,
    closed: BTreeSet<Month>,
    /// Turns that are behind it.
    turned: usize,
    users: IdMap<u128, u32>,
    owners: Vec<Owner>,
    /// Ids that clients chose, and those of resets and links.
    claims: Claims,
    /// Rows of our own api's calls.
    own_rows: IdSet<u128>,
    open_calls: IdMap<u128, OpenCall>,
    requests: Requests,
    chains: Chains,
    late: Late,
}

/// Whether calls of one request are one call.
#[derive(Debug)]
pub(super) enum Requests {
    /// The last calls of requests.
    Here(IdMap<u128, LastCall>),
    /// Decided elsewhere: these calls are the same as earlier ones.
    Same(IdSet<u64>),
}

#[derive(Debug)]
struct Owner {
    user: UserId,
    months: Vec<OfMonth>,
}

#[derive(Debug)]
struct OfMonth {
    month: Month,
    /// None while nothing counted.
    sums: Option<Sums>,
    calls: CallSums,
    /// Counted units since the last reset by API key.
    keys: Vec<(u128, i64)>,
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
    key: Option<u128>,
}

/// Amounts of a call, put in or taken out.
struct Amounts {
    sign: i64,
    category: usize,
    units: u32,
    response_time_ms: Option<u32>,
}

impl Requests {
    /// Whether the call is another one than the last of its request; it is the last one then.
    pub(super) fn is_another(&mut self, position: Position, call: &Call) -> bool {
        let Some((request, stored_at)) = call.request else { return true };
        match self {
            Self::Here(requests) => {
                let last_call = call.last_call(stored_at);
                let is_another = requests.get(&request).is_none_or(|last| !last.is_same(&last_call));
                if is_another {
                    requests.insert(request, last_call);
                }
                is_another
            }
            Self::Same(same) => !same.contains(&word(position)),
        }
    }
}

/// A position as a number: the frames of 8,900 years at a thousand a second have one of their own.
pub(super) fn word(position: Position) -> u64 {
    (position.seq << 16) | u64::from(position.idx)
}

impl Tally {
    /// Nothing counted yet.
    pub(super) fn new(wide: Arc<Wide>, requests: Requests) -> Self {
        Self {
            wide,
            behind: 0,
            closed: BTreeSet::new(),
            users: IdMap::default(),
            owners: Vec::new(),
            turned: 0,
            claims: Claims::default(),
            own_rows: IdSet::default(),
            open_calls: IdMap::default(),
            requests,
            chains: Chains::default(),
            late: Late::default(),
        }
    }

    /// Counts the next record in the log's order.
    pub(super) fn take(&mut self, record: &Record<'_>) -> Taken {
        let Record { position, user, what } = record;
        self.pass_wide(*position);
        match what {
            What::Call(call) => self.call(*position, *user, call),
            What::Completed(completed) if self.complete(*user, completed) => {}
            What::Completed(_) => return Taken::Unmatched,
            What::Reset { claim, month, at } => self.reset(*position, *user, *claim, *month, *at),
            What::Link(link) => {
                if self.claims.event(link.event_id.as_u128()) {
                    return Taken::Link(Box::new(self.chains.add(*position, *user, link)));
                }
            }
        }
        Taken::Whole
    }

    /// Adds what a table should hold, now that its cut is behind the last record and before the next.
    pub(super) fn add_to(&self, totals: &mut Totals, cut: &Cut) {
        match cut {
            Cut::Summaries { .. } => {
                for (user, of_month) in self.months() {
                    if let Some(sums) = &of_month.sums {
                        totals.add_sums(user, of_month.month, sums);
                    }
                }
                for (user, of_month) in self.months() {
                    totals.add_keys(user, of_month.month, &of_month.keys);
                }
                totals.add_late(&self.late);
            }
            Cut::Calls { month, .. } => {
                for (user, of_month) in self.months().filter(|(_, of_month)| of_month.month == *month) {
                    if of_month.calls.calls != 0 {
                        totals.add_calls(user, of_month.month, &of_month.calls);
                    }
                }
            }
            Cut::Vault { .. } => self.chains.tokens().for_each(|token| totals.add_token(token)),
        }
    }

    fn months(&self) -> impl Iterator<Item = (UserId, &OfMonth)> {
        self.owners.iter().flat_map(|owner| owner.months.iter().map(|of_month| (owner.user, of_month)))
    }

    fn pass_wide(&mut self, position: Position) {
        while let Some((turn, ended)) = self.wide.turns.get(self.turned)
            && *turn < position
        {
            self.claims.turn(*ended);
            self.turned += 1;
        }
        while let Some((closing, month)) = self.wide.closings.get(self.behind)
            && *closing < position
        {
            self.closed.insert(*month);
            self.behind += 1;
        }
    }

    fn reset(&mut self, position: Position, user: UserId, claim: Uuid, month: Month, at: DateTime<Utc>) {
        if !self.claims.event(claim.as_u128()) || self.closed.contains(&month) {
            return;
        }
        let owner = self.owner(user);
        let of_month = self.month(owner, month);
        of_month.keys.clear();
        let sums = of_month.sums.get_or_insert_default();
        *sums = Sums { reset: position, last_updated: sums.last_updated.max(at), ..Sums::default() };
    }

    fn call(&mut self, position: Position, user: UserId, call: &Call) {
        let claim = || self.claims.call(call.id, call.time_us);
        if meet(position, call, &mut self.own_rows, claim, &mut self.requests) != Met::New {
            return;
        }
        let owner = self.owner(user);
        let &Call { time_us, units, response_time_ms, category, counted, key, .. } = call;
        if call.open {
            let open = OpenCall {
                owner,
                time_us,
                position,
                units,
                response_time_ms,
                category,
                counted,
                completed: false,
                key,
            };
            self.open_calls.entry(call.id).or_insert(open);
        }
        let time = DateTime::from_timestamp_micros(time_us).unwrap_or_default();
        let amounts = Amounts { sign: 1, category: usize::from(category), units, response_time_ms };
        let month = Month::of(time);
        let of_month = self.month(owner, month);
        add_call(&mut of_month.calls, &amounts, counted);
        of_month.calls.checksum ^=
            checksum(Uuid::from_u128(call.id), time_us, position, counted, key_id(key));
        if counted {
            let sums = of_month.sums.get_or_insert_default();
            add(sums, &amounts);
            sums.last_updated = sums.last_updated.max(time);
            of_month.add_to_key(key, i64::from(units));
            self.add_late(user, month, &amounts);
        }
    }

    /// Answers whether the call is known.
    fn complete(&mut self, user: UserId, completed: &Completed) -> bool {
        let Some(owner) = self.users.get(&user.get().as_u128()).copied() else { return false };
        let &Completed { call_id, call_time_us: time_us, at, .. } = completed;
        let found =
            self.open_calls.get_mut(&call_id).filter(|call| call.owner == owner && call.time_us == time_us);
        let Some(call) = found else { return false };
        if std::mem::replace(&mut call.completed, true) {
            return true;
        }
        let &mut OpenCall { position, units, response_time_ms, category, counted, key, .. } = call;
        let before = Amounts { sign: -1, category: usize::from(category), units, response_time_ms };
        let response_time_ms = completed.response_time_ms.or(response_time_ms);
        let after = Amounts { sign: 1, response_time_ms, ..before };
        let counts = counted && completed.counted;
        let time = DateTime::from_timestamp_micros(time_us).unwrap_or_default();
        let month = Month::of(time);
        let of_month = self.month(owner, month);
        add_call(&mut of_month.calls, &before, counted);
        add_call(&mut of_month.calls, &after, counts);
        let sum_of = |counted| checksum(Uuid::from_u128(call_id), time_us, position, counted, key_id(key));
        of_month.calls.checksum ^= sum_of(counted) ^ sum_of(counts);
        if counted
            && let Some(sums) = &mut of_month.sums
            && sums.reset < position
        {
            add(sums, &before);
            if counts {
                add(sums, &after);
            }
            sums.last_updated = sums.last_updated.max(at);
            if !counts {
                of_month.add_to_key(key, -i64::from(units));
                self.add_late(user, month, &before);
            }
        }
        true
    }

    /// Notes what a closed month's sums change by.
    fn add_late(&mut self, user: UserId, month: Month, amounts: &Amounts) {
        if self.closed.contains(&month) {
            let closings = i32::try_from(self.behind).unwrap_or(i32::MAX);
            self.late.entry((user, month, closings)).or_default()[amounts.category] +=
                amounts.sign * i64::from(amounts.units);
        }
    }

    fn owner(&mut self, user: UserId) -> u32 {
        let next = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
        let owner = *self.users.entry(user.get().as_u128()).or_insert(next);
        if owner == next {
            // Most users of a long tail have one month.
            self.owners.push(Owner { user, months: Vec::with_capacity(1) });
        }
        owner
    }

    fn month(&mut self, owner: u32, month: Month) -> &mut OfMonth {
        let months = &mut self.owners[owner as usize].months;
        // The last one is nearly always the one.
        let at = months.iter().rposition(|of_month| of_month.month == month).unwrap_or_else(|| {
            months.push(OfMonth { month, sums: None, calls: CallSums::default(), keys: Vec::new() });
            months.len() - 1
        });
        &mut months[at]
    }
}

impl OfMonth {
    /// Adds to what a key used. A user has few keys.
    fn add_to_key(&mut self, key: Option<u128>, units: i64) {
        let Some(key) = key else { return };
        match self.keys.iter_mut().find(|(known, _)| *known == key) {
            Some((_, sum)) => *sum += units,
            None => self.keys.push((key, units)),
        }
    }
}

fn key_id(key: Option<u128>) -> Option<KeyId> {
    key.map(|key| KeyId::new(Uuid::from_u128(key)))
}

fn add(sums: &mut Sums, amounts: &Amounts) {
    let &Amounts { sign, category, units, response_time_ms } = amounts;
    sums.units[category] += sign * i64::from(units);
    if let Some(ms) = response_time_ms {
        sums.total_response_time_ms += sign * i64::from(ms);
        sums.timed_calls += sign;
    }
}

fn add_call(sums: &mut CallSums, amounts: &Amounts, counted: bool) {
    let &Amounts { sign, category, units, response_time_ms } = amounts;
    sums.calls += sign;
    sums.units[category] += sign * i64::from(units);
    if counted {
        sums.counted_calls += sign;
        sums.counted_units += sign * i64::from(units);
    }
    if let Some(ms) = response_time_ms {
        sums.total_response_time_ms += sign * i64::from(ms);
        sums.timed_calls += sign;
    }
}

/// What a call is to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Met {
    /// Another one, which leaves a row.
    New,
    /// The same event was before it.
    Again,
    /// Another call of its request was before it, and it leaves no row.
    SameRequest,
}

/// Holds a call against those before it, as the projector does: an event of ours is known by the row that it left, so
/// that one which left none is known no better when it comes again; one of a client once its id is claimed.
pub(super) fn meet(
    position: Position,
    call: &Call,
    own_rows: &mut IdSet<u128>,
    claim: impl FnOnce() -> bool,
    requests: &mut Requests,
) -> Met {
    let is_again = if call.own { own_rows.contains(&call.row()) } else { !claim() };
    if is_again {
        Met::Again
    } else if !requests.is_another(position, call) {
        Met::SameRequest
    } else {
        if call.own {
            own_rows.insert(call.row());
        }
        Met::New
    }
}
