//! Preparing items for the tables: sorted claims, COPY buffers, deltas. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use chrono::{DateTime, Utc};
use events::LastCall;
use ledger::{Category, Month, UserId};
use store::Position;
use store::projection::audit_chain::security_log::{Act, AuthFailuresRow};
use store::projection::claims::Claim;
use store::projection::completions::Completion;
use store::projection::dead_letters::DeadLetter;
use store::projection::gathered::{OwnCallsRow, Rejection};
use store::projection::hours::{Touched, start_of_hour};
use store::projection::requests::RequestClaim;
use store::projection::subscriptions::PlanChange;
use store::projection::summaries;
use store::projection::summaries::key_usage::KeyMonth;
use store::projection::thresholds::Crossing;
use store::projection::usage_rows::{CopyBuffer, RowKey};
use uuid::Uuid;

use super::audited::Audited;
use super::item::{Call, Command, Item};
use super::parse::Parsed;

/// Rows and claims that turned out to be there already and are left out.
#[derive(Debug, Default)]
pub struct Exclude {
    /// Claims of earlier events.
    pub claims: HashSet<Uuid>,
    /// Requests that were claimed before, and the times of their last calls.
    pub requests: HashMap<Uuid, LastCall>,
    /// Calls that are stored.
    pub rows: HashSet<RowKey>,
    /// Months that were closed before these items: what a statement lists is not reset any more.
    pub closed: HashSet<Month>,
}

/// Items that are applied together: the sums of a segment are added once, at its end. The closing of a month needs the
/// sums before it to be there, and a turn of the claims those before it, so a segment ends with either.
#[derive(Debug)]
pub struct Segment {
    /// The items.
    pub items: Range<usize>,
    /// The rows and sums that they need, if nothing is excluded.
    pub prepared: Prepared,
}

/// Rows and sums that a segment writes.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Claims, sorted by id.
    pub claims: Vec<Claim>,
    /// Requests with their last calls, sorted by hash.
    pub requests: Vec<RequestClaim>,
    /// Rows by month.
    pub rows: BTreeMap<Month, CopyBuffer>,
    /// Keys of the rows, sorted.
    pub row_keys: Vec<RowKey>,
    /// Amounts that are added to summaries, sorted by user and month.
    pub summaries: Vec<((UserId, Month), summaries::Delta)>,
    /// Units that are added to API keys' months, sorted by key.
    pub key_usage: Vec<(KeyMonth, i64)>,
    /// Hours of the rows, sorted by user and time.
    pub hours: Vec<Touched>,
    /// The last reset of each month.
    pub resets: Vec<(UserId, Month, Position)>,
    /// Plan changes in order.
    pub plans: Vec<PlanChange>,
    /// Links of audit chains in order.
    pub audited: Vec<Audited>,
    /// Changes of plans and resets for the security log, in order; what links tell of is not among them.
    pub acts: Vec<Act>,
    /// Refused credentials in order.
    pub auth_failures: Vec<AuthFailuresRow>,
    /// Completions in order.
    pub completions: Vec<Completion>,
    /// Refusals in order.
    pub rejections: Vec<Rejection>,
    /// Calls of our own endpoints in order.
    pub own_calls: Vec<OwnCallsRow>,
    /// Crossings in order.
    pub crossings: Vec<Crossing>,
    /// The month that is closed at the end, with time and position.
    pub close: Option<(Month, DateTime<Utc>, Position)>,
    /// The generation of claims that ends at the end, with the sequence of the frame that says so.
    pub turn: Option<(u64, u64)>,
    /// Events that can't be applied.
    pub dead: Vec<DeadLetter>,
}

impl Segment {
    /// All segments of a batch.
    pub fn all(parsed: &Parsed) -> Vec<Self> {
        let ends = |item: &Item| matches!(item, Item::Command(command) if command.ends_segment());
        let mut segments = Vec::new();
        let mut start = 0;
        for (index, item) in parsed.items().iter().enumerate() {
            if ends(item) || index + 1 == parsed.items().len() {
                let items = start..index + 1;
                let prepared = Prepared::of(parsed, items.clone(), &Exclude::default());
                segments.push(Self { items, prepared });
                start = index + 1;
            }
        }
        segments
    }
}

impl Prepared {
    /// The rows and sums that these items write when `exclude` is left out.
    pub fn of(parsed: &Parsed, items: Range<usize>, exclude: &Exclude) -> Self {
        let mut builder = Builder::new(parsed, exclude, items.len());
        for item in &parsed.items()[items] {
            builder.item(item);
        }
        builder.finish()
    }
}

struct Builder<'a> {
    parsed: &'a Parsed,
    exclude: &'a Exclude,
    seen: HashSet<(Uuid, i64, Uuid)>,
    requests: HashMap<Uuid, RequestClaim>,
    calls: Vec<&'a Call>,
    summaries: HashMap<(UserId, Month), summaries::Delta>,
    key_usage: HashMap<KeyMonth, i64>,
    prepared: Prepared,
}

impl<'a> Builder<'a> {
    fn new(parsed: &'a Parsed, exclude: &'a Exclude, items: usize) -> Self {
        Self {
            parsed,
            exclude,
            seen: HashSet::with_capacity(items),
            requests: HashMap::new(),
            calls: Vec::with_capacity(items),
            summaries: HashMap::new(),
            key_usage: HashMap::new(),
            prepared: Prepared::default(),
        }
    }

    fn item(&mut self, item: &'a Item) {
        match item {
            Item::Call(call) => self.call(call),
            Item::Command(command) => self.command(command),
            Item::Dead(letter) => self.prepared.dead.push((**letter).clone()),
        }
    }

    fn call(&mut self, call: &'a Call) {
        let stored = !self.exclude.rows.is_empty() && self.exclude.rows.contains(&call.row_key());
        if call.claimed {
            if !self.claim(call.id, call.position) || stored {
                // Its row may outlive its claim, which it has again then.
                return;
            }
        } else if stored || self.seen.contains(&call.dedup_key()) {
            return;
        }
        if !self.claim_request(call) {
            return;
        }
        if !call.claimed {
            // Only what leaves a row is known when it comes again, as it is in a later batch.
            self.seen.insert(call.dedup_key());
        }
        self.calls.push(call);
        if call.counted {
            let delta = self.summaries.entry((call.user, call.month)).or_default();
            count(delta, call.category, i64::from(call.units), call.response_time_ms.map(i64::from));
            delta.last_updated = delta.last_updated.max(call.created_at);
            if let Some(key) = call.key_id {
                *self.key_usage.entry((call.user, call.month, key)).or_default() += i64::from(call.units);
            }
        }
    }

    /// Claims the call's request, if it has one; `false` when another call of the same request was before it.
    fn claim_request(&mut self, call: &Call) -> bool {
        let Some(request) = call.request else { return true };
        let (created_at, stored_at) = (call.created_at, self.parsed.stored_at(call.position));
        let claimed = self.requests.get(&request).map(last_call);
        let claimed = claimed.or_else(|| self.exclude.requests.get(&request).copied());
        if claimed.is_some_and(|last| last.is_same(&LastCall { created_at, stored_at })) {
            return false;
        }
        let (call_id, log_seq) = (call.id, call.position.seq);
        self.requests.insert(request, RequestClaim { request, created_at, call_id, log_seq, stored_at });
        true
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Complete(completion) => self.prepared.completions.push(completion.clone()),
            Command::Reset { position, claim, user, month, at, act } => {
                if !self.claim(*claim, *position) {
                    return;
                }
                // Somebody did it, also where it comes to nothing.
                self.prepared.acts.push(act.clone());
                if !self.exclude.closed.contains(month) {
                    let delta = self.summaries.entry((*user, *month)).or_default();
                    let last_updated = delta.last_updated.max(*at);
                    *delta = summaries::Delta { reset: Some(*position), last_updated, ..Default::default() };
                    self.key_usage.retain(|(of, in_month, _), _| (of, in_month) != (user, month));
                }
            }
            Command::ChangePlan { claim, change, act } => {
                if self.claim(*claim, change.position) {
                    self.prepared.acts.push(act.clone());
                    self.prepared.plans.push(change.clone());
                }
            }
            Command::Audit(audited) => {
                if self.claim(audited.claim, audited.link.position) {
                    self.prepared.audited.push(Audited::clone(audited));
                }
            }
            Command::Reject(rejection) => self.prepared.rejections.push(rejection.clone()),
            Command::CountOwn(row) => self.prepared.own_calls.push(row.clone()),
            Command::Fail(row) => self.prepared.auth_failures.push(row.clone()),
            Command::Cross(crossing) => self.prepared.crossings.push(crossing.clone()),
            Command::Close { position, month, at } => self.prepared.close = Some((*month, *at, *position)),
            Command::TurnClaims { position, ended } => self.prepared.turn = Some((*ended, position.seq)),
            Command::Nothing(_) => {}
        }
    }

    fn claim(&mut self, id: Uuid, position: Position) -> bool {
        if self.exclude.claims.contains(&id) || !self.seen.insert((id, 0, Uuid::nil())) {
            return false;
        }
        self.prepared.claims.push((id, position.seq));
        true
    }

    fn finish(mut self) -> Prepared {
        let mut prepared = self.prepared;
        // Users are spread all over the index: in its order each of its pages is touched once, and a user's rows of a
        // batch lie side by side.
        self.calls.sort_unstable_by_key(|call| call.row_key());
        prepared.row_keys.reserve_exact(self.calls.len());
        // Three batches are in memory at a time: none takes more than it needs.
        let mut bytes: BTreeMap<Month, usize> = BTreeMap::new();
        for call in &self.calls {
            *bytes.entry(call.month).or_default() += self.parsed.tuple(call).len();
        }
        let buffers = bytes.into_iter().map(|(month, bytes)| (month, CopyBuffer::with_capacity(bytes)));
        prepared.rows = buffers.collect();
        for call in self.calls {
            prepared.row_keys.push(call.row_key());
            touch(&mut prepared.hours, call);
            if let Some(rows) = prepared.rows.get_mut(&call.month) {
                rows.push(self.parsed.tuple(call));
            }
        }
        prepared.claims.sort_unstable();
        prepared.requests = self.requests.into_values().collect();
        prepared.requests.sort_unstable_by_key(|claim| claim.request);
        prepared.summaries = self.summaries.into_iter().collect();
        prepared.summaries.sort_unstable_by_key(|(key, _)| *key);
        prepared.key_usage = self.key_usage.into_iter().collect();
        prepared.key_usage.sort_unstable_by_key(|(key, _)| *key);
        prepared.resets = prepared
            .summaries
            .iter()
            .filter_map(|((user, month), delta)| Some((*user, *month, delta.reset?)))
            .collect();
        prepared
    }
}

/// The call that has claimed a request.
pub(super) fn last_call(claim: &RequestClaim) -> LastCall {
    LastCall { created_at: claim.created_at, stored_at: claim.stored_at }
}

/// Adds a counted call to a summary.
pub(super) fn count(
    delta: &mut summaries::Delta,
    category: Category,
    units: i64,
    response_time_ms: Option<i64>,
) {
    *match category {
        Category::Analyze => &mut delta.analyze,
        Category::Auth => &mut delta.auth,
        Category::Other => &mut delta.other,
    } += units;
    if let Some(ms) = response_time_ms {
        delta.total_response_time_ms += ms;
        delta.timed_calls += 1;
    }
}

/// Adds the call to its hour, which is the last one if another call of it was before.
fn touch(hours: &mut Vec<Touched>, call: &Call) {
    let hour = start_of_hour(call.created_at);
    match hours.last_mut() {
        Some(last) if last.user == call.user && last.hour == hour => last.calls += 1,
        _ => hours.push(Touched { user: call.user, hour, calls: 1 }),
    }
}
