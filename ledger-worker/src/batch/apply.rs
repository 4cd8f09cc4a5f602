//! Applying a batch within the caller's transaction.
//!
//! Rows and claims are copied as if all were new, which they nearly always are; only on a conflict is it asked which
//! ones are. What is added to sums follows from the rows that were really inserted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use events::LastCall;
use ledger::{Month, UserId};
use sqlx::PgConnection;
use store::projection::audit_chain::security_log;
use store::projection::checkpoint::{self, PARTITION};
use store::projection::claims::Generations;
use store::projection::completions::{self, Completion};
use store::projection::dead_letters;
use store::projection::hours::{self, Touched, start_of_hour};
use store::projection::savepoint::{self, Savepoint};
use store::projection::summaries::key_usage;
use store::projection::summaries::{self, Correction, Crossed};
use store::projection::usage_rows::RowKey;
use store::projection::{claims, gathered, periods, requests, subscriptions, thresholds, usage_rows};
use store::{Constraint, Position, Schema};

use super::audited;
use super::claim::{claim, claim_late};
use super::corrections::{correction, key_correction};
use super::fault::EventFault;
use super::item::Item;
use super::late;
use super::parse::Parsed;
use super::prepare::{Exclude, Prepared, Segment, last_call};

/// Result of applying.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Rows that were inserted.
    pub rows: u64,
    /// Events that became dead letters.
    pub dead: u64,
    /// Months that reached a threshold of a limit by it.
    pub crossed: Vec<Crossed>,
    /// Users who were erased by it.
    pub erased: Vec<UserId>,
    /// Months of the rows that were inserted.
    pub months: BTreeSet<Month>,
    /// Hours in which it added or changed calls.
    pub hours: Vec<Touched>,
    /// Whether its rows were written while the batch before it was applied.
    pub is_ahead: bool,
}

/// Reason for which a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The database is away or refuses.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The database refuses a value of an event that is not to be passed over.
    #[error("the event {position} of a user's audit chain cannot be applied")]
    BrokenLink {
        /// Its position in the log.
        position: Position,
        /// The database's own error.
        #[source]
        source: store::Error,
    },
}

impl Applied {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.dead += other.dead;
        self.crossed.extend(other.crossed);
        self.erased.extend(other.erased);
        self.months.extend(other.months);
        self.hours.extend(other.hours);
        self.is_ahead |= other.is_ahead;
    }
}

/// Place of a step in the log's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Everything before it in the log was applied, nothing after it.
    InLog,
    /// Later events were applied already, and are not undone.
    Late,
}

/// Applies all segments. With `one_by_one` an event whose values the database refuses becomes a dead letter and the
/// rest goes on; without, the refusal is the answer, and the caller's transaction is lost.
pub(super) async fn apply_all(
    conn: &mut PgConnection,
    schema: Schema,
    parsed: &Parsed,
    segments: &[Segment],
    generations: &mut Generations,
    one_by_one: bool,
) -> Result<Applied, ApplyError> {
    let mut applied = Applied::default();
    for segment in segments {
        applied.add(if one_by_one {
            isolate(conn, schema, parsed, segment.items.clone(), generations).await?
        } else {
            Step::of(schema, parsed, segment).apply(conn, &segment.prepared, generations).await?
        });
    }
    Ok(applied)
}

/// Applies one event out of the log's order: a dead letter that is tried again. What later events did stays.
/// No event of an audit chain is ever among them. The caller's transaction has the checkpoint for itself
/// ([`checkpoint::lock_alone`]).
pub async fn apply_late(conn: &mut PgConnection, parsed: &Parsed) -> Result<Applied, store::Error> {
    let items = 0..parsed.items().len();
    let prepared = Prepared::of(parsed, items.clone(), &Exclude::default());
    let mut generations = checkpoint::read(conn, PARTITION).await?.claims;
    let step = Step { schema: Schema::Live, parsed, items, order: Order::Late };
    let applied = step.apply(conn, &prepared, &mut generations).await?;
    hours::forget(conn, PARTITION, &applied.hours).await?;
    Ok(applied)
}

/// Halves the items until those that the database refuses stand alone.
async fn isolate(
    conn: &mut PgConnection,
    schema: Schema,
    parsed: &Parsed,
    items: Range<usize>,
    generations: &mut Generations,
) -> Result<Applied, ApplyError> {
    let mut applied = Applied::default();
    let mut todo = vec![items];
    while let Some(items) = todo.pop() {
        savepoint::open(conn, Savepoint::Isolated).await?;
        let prepared = Prepared::of(parsed, items.clone(), &Exclude::default());
        let step = Step { schema, parsed, items: items.clone(), order: Order::InLog };
        let mut turned = *generations;
        match step.apply(conn, &prepared, &mut turned).await {
            Ok(done) => {
                savepoint::release(conn, Savepoint::Isolated).await?;
                *generations = turned;
                applied.add(done);
            }
            Err(error) if error.is_refused() => {
                savepoint::undo(conn, Savepoint::Isolated).await?;
                if items.len() > 1 {
                    let middle = items.start + items.len() / 2;
                    // The earlier half is on top: the log's order is kept.
                    todo.push(middle..items.end);
                    todo.push(items.start..middle);
                } else if parsed.items()[items.start].is_audited() {
                    let position = parsed.items()[items.start].position();
                    return Err(ApplyError::BrokenLink { position, source: error });
                } else {
                    let fault = EventFault::Refused(error);
                    let letter = parsed.dead_letter(&parsed.items()[items.start], &fault);
                    dead_letters::record(conn, &letter).await?;
                    applied.dead += 1;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(applied)
}

/// Some items that are applied together.
pub(super) struct Step<'a> {
    /// The projection that the connection sees.
    schema: Schema,
    parsed: &'a Parsed,
    items: Range<usize>,
    order: Order,
}

impl<'a> Step<'a> {
    /// The step of a whole segment, in its place in the log.
    pub(super) fn of(schema: Schema, parsed: &'a Parsed, segment: &Segment) -> Self {
        Self { schema, parsed, items: segment.items.clone(), order: Order::InLog }
    }

    async fn apply(
        &self,
        conn: &mut PgConnection,
        all: &Prepared,
        generations: &mut Generations,
    ) -> Result<Applied, store::Error> {
        let fewer = self.insert(conn, all, generations).await?;
        self.settle(conn, fewer.as_ref().unwrap_or(all), generations).await
    }

    /// Does all that is left when the claims are made and the rows are there. What it reads is as the batch before has
    /// left it, and so it stays: the checkpoint is locked.
    pub(super) async fn settle(
        &self,
        conn: &mut PgConnection,
        new: &Prepared,
        generations: &mut Generations,
    ) -> Result<Applied, store::Error> {
        let (rows, months) = (new.row_keys.len() as u64, new.rows.keys().copied().collect());
        let mut applied = Applied { rows, months, hours: new.hours.clone(), ..Applied::default() };
        late::blank_calls_of_erased(conn, &self.parsed.items()[self.items.clone()]).await?;
        if !new.audited.is_empty() {
            applied.erased = audited::apply(conn, self.schema, &new.audited).await?;
        }
        if !new.plans.is_empty() {
            let retried = match self.order {
                Order::InLog => None,
                Order::Late => Some(periods::last_number(conn).await?).filter(|number| *number > 0),
            };
            for change in &new.plans {
                subscriptions::insert(conn, change, retried).await?;
            }
        }
        applied.crossed = self.summarise(conn, new).await?;
        self.add_key_usage(conn, new).await?;
        for (user, month, position) in &new.resets {
            thresholds::forget_before(conn, *user, *month, *position).await?;
        }
        if !new.completions.is_empty() {
            applied.add(self.complete(conn, new).await?);
        }
        if !new.plans.is_empty() {
            let since: Vec<_> = new.plans.iter().map(|plan| (plan.user, plan.effective_at)).collect();
            applied.crossed.extend(summaries::refresh_limits(conn, &since).await?);
        }
        if !new.rejections.is_empty() {
            gathered::insert_rejections(conn, &new.rejections).await?;
        }
        if !new.own_calls.is_empty() {
            gathered::insert_own_calls(conn, &new.own_calls).await?;
        }
        security_log::insert(conn, &new.acts).await?;
        if !new.auth_failures.is_empty() {
            security_log::insert_auth_failures(conn, &new.auth_failures).await?;
        }
        self.note_thresholds(conn, new, &applied.crossed).await?;
        for letter in &new.dead {
            dead_letters::record(conn, letter).await?;
        }
        applied.dead += new.dead.len() as u64;
        if let Some((month, at, position)) = new.close {
            periods::close(conn, month, at, position).await?;
        }
        // Late it would forget what was claimed in between too early. The worker publishes it again.
        if let (Some((ended, seq)), Order::InLog) = (new.turn, self.order) {
            claims::turn(conn, generations, ended, seq).await?;
        }
        Ok(applied)
    }

    /// Claims ids and inserts rows; answers what is left to do if some of it was there already.
    async fn insert(
        &self,
        conn: &mut PgConnection,
        all: &Prepared,
        generations: &mut Generations,
    ) -> Result<Option<Prepared>, store::Error> {
        let mut exclude = Exclude { closed: self.closed(conn, all).await?, ..Exclude::default() };
        if !all.claims.is_empty() {
            exclude.claims = match self.order {
                Order::InLog => claim(conn, generations, self.parsed, &all.claims).await?,
                Order::Late => claim_late(conn, generations, &all.claims).await?,
            };
        }
        if !all.requests.is_empty() {
            exclude.requests = claim_requests(conn, all).await?;
            exclude.rows = self.stored_calls_of(conn, &exclude.requests).await?;
        }
        let is_less =
            !exclude.claims.is_empty() || !exclude.requests.is_empty() || !exclude.closed.is_empty();
        let mut fewer = is_less.then(|| Prepared::of(self.parsed, self.items.clone(), &exclude));
        let new = fewer.as_ref().unwrap_or(all);
        if !exclude.requests.is_empty() {
            requests::put(conn, &new.requests).await?;
        }
        if !new.rows.is_empty() && !copy_rows(conn, new).await? {
            // Known before a row goes in: without a stored call another one of its request may be the one that counts.
            exclude.rows.extend(self.stored_calls(conn).await?);
            let rest = Prepared::of(self.parsed, self.items.clone(), &exclude);
            if !rest.requests.is_empty() {
                requests::put(conn, &rest.requests).await?;
            }
            for (month, rows) in &rest.rows {
                usage_rows::insert_new(conn, *month, rows).await?;
            }
            fewer = Some(rest);
        }
        Ok(fewer)
    }

    /// Calls that are stored already.
    async fn stored_calls(&self, conn: &mut PgConnection) -> Result<Vec<RowKey>, store::Error> {
        let call = |item: &Item| if let Item::Call(call) = item { Some(call.row_key()) } else { None };
        let calls: Vec<_> = self.parsed.items()[self.items.clone()].iter().filter_map(call).collect();
        usage_rows::find(conn, &calls).await
    }

    /// Calls of these requests that are stored already: an event that is there again claims nothing anew.
    async fn stored_calls_of(
        &self,
        conn: &mut PgConnection,
        requests: &HashMap<uuid::Uuid, LastCall>,
    ) -> Result<HashSet<RowKey>, store::Error> {
        let calls = self.parsed.items()[self.items.clone()].iter().filter_map(|item| match item {
            Item::Call(call) if call.request.is_some_and(|request| requests.contains_key(&request)) => {
                Some(call.row_key())
            }
            _ => None,
        });
        let calls: Vec<_> = calls.collect();
        if calls.is_empty() {
            return Ok(HashSet::new());
        }
        Ok(usage_rows::find(conn, &calls).await?.into_iter().collect())
    }

    /// The months that were closed before a reset of theirs, which comes to nothing then. A segment ends with a
    /// closing, so within one nothing is closed before its end.
    async fn closed(&self, conn: &mut PgConnection, all: &Prepared) -> Result<HashSet<Month>, store::Error> {
        if all.resets.is_empty() {
            return Ok(HashSet::new());
        }
        let months: Vec<Month> = all.resets.iter().map(|(_, month, _)| *month).collect();
        let first = self.parsed.items()[self.items.start].position();
        let closings = periods::closings(conn, &months).await?;
        Ok(closings.iter().filter(|closing| closing.position < first).map(|closing| closing.month).collect())
    }

    /// Stores crossings that events tell of, and notes months that reached a threshold until an event does.
    async fn note_thresholds(
        &self,
        conn: &mut PgConnection,
        new: &Prepared,
        crossed: &[Crossed],
    ) -> Result<(), store::Error> {
        if !crossed.is_empty() {
            let last = self.parsed.items()[self.items.end - 1].position();
            thresholds::note(conn, crossed, last.seq).await?;
        }
        for crossing in &new.crossings {
            thresholds::insert(conn, crossing).await?;
        }
        if new.crossings.is_empty() { Ok(()) } else { thresholds::settle_told(conn, &new.crossings).await }
    }

    async fn summarise(&self, conn: &mut PgConnection, new: &Prepared) -> Result<Vec<Crossed>, store::Error> {
        if new.summaries.is_empty() {
            return Ok(Vec::new());
        }
        if self.order == Order::InLog {
            let crossed = summaries::add(conn, &new.summaries).await?;
            let added = new.summaries.iter().map(|(key, delta)| (*key, delta.units()));
            late::note(conn, added.collect(), None).await?;
            return Ok(crossed);
        }
        let position = self.parsed.items()[self.items.start].position();
        let mut added = Vec::new();
        for (key, delta) in &new.summaries {
            let units = match delta.reset {
                Some(reset) => summaries::reset_late(conn, *key, reset, delta.last_updated).await?,
                None => summaries::add_late(conn, *key, position, delta).await?,
            };
            added.push((*key, units));
        }
        late::note(conn, added, Some(position)).await?;
        // Whether one was reached by it is left to whoever tells of it.
        Ok(new.summaries.iter().map(|((user, month), _)| Crossed { user: *user, month: *month }).collect())
    }

    /// Adds what API keys used, once the summaries know of the resets.
    async fn add_key_usage(&self, conn: &mut PgConnection, new: &Prepared) -> Result<(), store::Error> {
        let resets: Vec<(UserId, Month)> =
            new.resets.iter().map(|(user, month, _)| (*user, *month)).collect();
        match self.order {
            Order::InLog => {
                if !resets.is_empty() {
                    key_usage::reset(conn, &resets).await?;
                }
                if !new.key_usage.is_empty() {
                    key_usage::add(conn, &new.key_usage).await?;
                }
            }
            Order::Late => {
                for (user, month) in resets {
                    key_usage::recount(conn, user, month).await?;
                }
                if !new.key_usage.is_empty() {
                    let position = self.parsed.items()[self.items.start].position();
                    key_usage::add_late(conn, &new.key_usage, position).await?;
                }
            }
        }
        Ok(())
    }

    /// Completes calls, and answers whose hours they change.
    async fn complete(&self, conn: &mut PgConnection, new: &Prepared) -> Result<Applied, store::Error> {
        let found = completions::find(conn, &new.completions).await?;
        let mut ready = Vec::new();
        let mut seen = HashSet::new();
        let mut applied = Applied::default();
        for (completion, call) in new.completions.iter().zip(found) {
            // A call that comes after its completion in the log was not there when it was completed.
            match call.filter(|call| call.position < completion.position) {
                Some(call) if call.completed => {}
                Some(call) => {
                    if seen.insert(completion.call_id) {
                        ready.push((completion, call));
                    }
                }
                None => {
                    let letter = self.dead_letter_at(completion, &EventFault::NoCall);
                    dead_letters::record(conn, &letter).await?;
                    applied.dead += 1;
                }
            }
        }
        if !ready.is_empty() {
            let completions: Vec<&Completion> = ready.iter().map(|(completion, _)| *completion).collect();
            completions::complete(conn, &completions).await?;
            let corrections: Vec<Correction> =
                ready.iter().filter_map(|(completion, call)| correction(completion, call)).collect();
            if !corrections.is_empty() {
                self.correct(conn, &corrections).await?;
            }
            let of_keys: Vec<_> = ready.iter().filter_map(|(c, call)| key_correction(c, call)).collect();
            if !of_keys.is_empty() {
                key_usage::correct(conn, &of_keys).await?;
            }
        }
        let touched = |c: &Completion| Touched { user: c.user, hour: start_of_hour(c.call_time), calls: 0 };
        applied.hours = ready.iter().map(|(completion, _)| touched(completion)).collect();
        Ok(applied)
    }

    async fn correct(&self, conn: &mut PgConnection, corrections: &[Correction]) -> Result<(), store::Error> {
        let months: BTreeSet<Month> = corrections.iter().map(|correction| correction.month).collect();
        let months: Vec<Month> = months.into_iter().collect();
        let closed = periods::closed(conn, &months).await?;
        let added = summaries::correct(conn, corrections, &closed).await?;
        let position = self.parsed.items()[self.items.start].position();
        late::note(conn, added, (self.order == Order::Late).then_some(position)).await
    }

    fn dead_letter_at(&self, completion: &Completion, fault: &EventFault) -> dead_letters::DeadLetter {
        let items = &self.parsed.items()[self.items.clone()];
        let at = items.partition_point(|item: &Item| item.position() < completion.position);
        self.parsed.dead_letter(&items[at], fault)
    }
}

/// Claims all requests; answers those that were claimed before, with their last calls, and has claimed none then.
async fn claim_requests(
    conn: &mut PgConnection,
    all: &Prepared,
) -> Result<HashMap<uuid::Uuid, LastCall>, store::Error> {
    savepoint::open(conn, Savepoint::Step).await?;
    match requests::copy(conn, &all.requests).await {
        Ok(()) => {
            savepoint::release(conn, Savepoint::Step).await?;
            Ok(HashMap::new())
        }
        Err(error) if error.conflict() == Some(&Constraint::RequestClaim) => {
            savepoint::undo(conn, Savepoint::Step).await?;
            let hashes: Vec<_> = all.requests.iter().map(|claim| claim.request).collect();
            let found = requests::find(conn, &hashes).await?;
            Ok(found.iter().map(|claim| (claim.request, last_call(claim))).collect())
        }
        Err(error) => Err(error),
    }
}

/// Copies all rows; answers `false`, having copied none, if some are there already.
async fn copy_rows(conn: &mut PgConnection, new: &Prepared) -> Result<bool, store::Error> {
    savepoint::open(conn, Savepoint::Step).await?;
    for (month, rows) in &new.rows {
        match usage_rows::copy(conn, *month, rows).await {
            Ok(_) => {}
            Err(error) if error.conflict() == Some(&Constraint::UsageId) => {
                savepoint::undo(conn, Savepoint::Step).await?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    savepoint::release(conn, Savepoint::Step).await?;
    Ok(true)
}
