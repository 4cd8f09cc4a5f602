//! Taking in the items of a report.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use data_keys::{Found, KeysError};
use ledger::limit::Used;
use ledger::{Classified, Clock, Month, Rules, UserId, UserRef};
use nats::{EncodedEvent, Position, Publisher};
use sqlx::PgPool;
use store::identity::users::{Account, AccountStatus};
use store::projection::usage_rows::RowKey;
use store::projection::{claims, usage_rows};
use uuid::Uuid;

use super::call::{self, Call, Reporter, TimeWindow};
use super::draft::Draft;
use super::error::IngestError;
use super::parse::Item;
use super::receipt::Receipt;
use super::recent::Recent;
use crate::auth::Accounts;
use crate::http::problem::{Chain, FieldError};
use crate::limits::{Cost, Limits};
use crate::metering;
use crate::metering::sealer::Sealer;

/// An event older than this may have been reported before this process started, or so long ago that it is not
/// remembered: the database is asked.
const ASK_AFTER: TimeDelta = TimeDelta::minutes(10);
/// A guess at the length of an encoded event, in bytes.
const EVENT_BYTES: usize = 384;

/// Takes in calls that happened. Cheap to clone.
#[derive(Clone)]
pub struct Intake(Arc<Parts>);

struct Parts {
    pool: PgPool,
    sealer: Sealer,
    accounts: Accounts,
    publisher: Publisher,
    clock: Clock,
    rules: Rules,
    /// None where no limits are decided (`import`).
    limits: Option<Limits>,
    recent: Recent,
}

/// A valid call with its user, in the request's order.
struct Accepted<'a> {
    index: usize,
    call: Call<'a>,
    user: UserId,
    claim: Uuid,
}

impl Intake {
    /// Takes in calls under these rules. With `limits`, reported calls count there at once.
    pub fn new(
        pool: PgPool,
        sealer: Sealer,
        accounts: Accounts,
        publisher: Publisher,
        clock: Clock,
        rules: Rules,
        limits: Option<Limits>,
    ) -> Self {
        let recent = Recent::new();
        Self(Arc::new(Parts { pool, sealer, accounts, publisher, clock, rules, limits, recent }))
    }

    /// Tells whether calls of this reporter are taken in now.
    ///
    /// # Errors
    /// [`LimitsError::Shed`](crate::limits::LimitsError::Shed) while the projection is behind and it has to wait.
    pub(super) fn check_turn(&self, reporter: &Reporter) -> Result<(), IngestError> {
        let checked = self.0.limits.as_ref().map(|limits| limits.check_reporter(reporter.user));
        Ok(checked.unwrap_or(Ok(()))?)
    }

    /// Takes in the items of one request. When this returns, what is accepted is on disk.
    ///
    /// # Errors
    /// When nothing can be said about the items: log or database away, or the projection so far behind that this
    /// reporter has to wait. Also when none is on disk, and some only because their users' data keys do not open. A
    /// retry of the same request is safe.
    pub async fn take(&self, reporter: &Reporter, drafts: Vec<Item<'_>>) -> Result<Receipt, IngestError> {
        let parts = &self.0;
        if let Some(limits) = &parts.limits {
            limits.check_database()?;
        }
        self.check_turn(reporter)?;
        let now = parts.clock.now();
        let mut receipt = Receipt::with_capacity(drafts.len());
        let mut calls = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.into_iter().enumerate() {
            match draft {
                Ok(draft) => {
                    receipt.add(Some(draft.id.to_string()));
                    match call::validate(draft, reporter, &parts.rules, now) {
                        Ok(call) => calls.push((index, call)),
                        Err(error) => receipt.reject(index, error),
                    }
                }
                Err((id, error)) => {
                    receipt.add(id);
                    receipt.reject(index, error);
                }
            }
        }
        let accepted = parts.find_users(reporter, calls, &mut receipt).await?;
        let fresh = parts.drop_known(reporter, accepted, now, &mut receipt).await?;
        parts.record(reporter, fresh, &mut receipt).await?;
        Ok(receipt)
    }
}

/// Says whether a draft is valid, without recording it and without looking up its user.
///
/// # Errors
/// What is wrong with it.
pub fn check(
    draft: Draft<'_>,
    reporter: &Reporter,
    rules: &Rules,
    now: DateTime<Utc>,
) -> Result<(), FieldError> {
    call::validate(draft, reporter, rules, now).map(drop)
}

impl Parts {
    /// Gives every call its user; rejects those of users who are not there.
    async fn find_users<'a>(
        &self,
        reporter: &Reporter,
        calls: Vec<(usize, Call<'a>)>,
        receipt: &mut Receipt,
    ) -> Result<Vec<Accepted<'a>>, IngestError> {
        // A request names few users many times.
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut named: Vec<Option<UserRef>> = Vec::new();
        for (_, call) in &calls {
            if let Some(subject) = call.subject.as_deref()
                && let Entry::Vacant(vacant) = places.entry(subject)
            {
                vacant.insert(named.len());
                named.push(subject.parse().ok());
            }
        }
        let users = self.resolve(reporter, &named).await?;
        let found: Vec<Option<Account>> = calls
            .iter()
            .map(|(_, call)| match call.subject.as_deref() {
                None => Some(reporter.account()),
                Some(subject) => places.get(subject).and_then(|&place| users[place]),
            })
            .collect();
        let mut accepted = Vec::with_capacity(calls.len());
        for ((index, call), user) in calls.into_iter().zip(found) {
            let refused = match user {
                Some(Account {
                    user_id: user,
                    status: AccountStatus::Active | AccountStatus::Suspended,
                    ..
                }) => {
                    let claim = call.claim(user);
                    accepted.push(Accepted { index, call, user, claim });
                    continue;
                }
                Some(_) => erased_user(),
                None => FieldError::at("/subject", "unknown_user", "there is no such user"),
            };
            receipt.reject(index, refused);
        }
        Ok(accepted)
    }

    async fn resolve(
        &self,
        reporter: &Reporter,
        named: &[Option<UserRef>],
    ) -> Result<Vec<Option<Account>>, IngestError> {
        if !reporter.may_name_others {
            // Whether another user is there is not for a user to learn, and none is made on its word.
            let are_own = self.accounts.are_own(reporter.user, named).await?;
            return Ok(are_own.into_iter().map(|is_own| is_own.then(|| reporter.account())).collect());
        }
        let mut users: Vec<Option<Account>> =
            named.iter().map(|user| user.as_ref().and_then(|user| self.accounts.cached(user))).collect();
        let (missing, unknown): (Vec<usize>, Vec<UserRef>) = (0..named.len())
            .filter(|&place| users[place].is_none())
            .filter_map(|place| Some((place, named[place].clone()?)))
            .unzip();
        if !unknown.is_empty() {
            let found = self.accounts.find_or_provision_many(&unknown).await?;
            for (place, account) in missing.into_iter().zip(found) {
                users[place] = account;
            }
        }
        Ok(users)
    }

    /// Drops what was acknowledged lately and, of old events, what is projected: ids that are claimed, and calls of
    /// this id and time, which outlive their claims.
    async fn drop_known<'a>(
        &self,
        reporter: &Reporter,
        accepted: Vec<Accepted<'a>>,
        now: DateTime<Utc>,
        receipt: &mut Receipt,
    ) -> Result<Vec<Accepted<'a>>, IngestError> {
        let is_old = |call: &Call<'_>| call.time < now - ASK_AFTER || reporter.window == TimeWindow::Backfill;
        let asked: Vec<Uuid> =
            accepted.iter().filter(|item| is_old(&item.call)).map(|item| item.claim).collect();
        let projected: HashSet<Uuid> = if asked.is_empty() {
            HashSet::new()
        } else {
            let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
            let mut known: HashSet<Uuid> = claims::find(&mut conn, &asked).await?.into_iter().collect();
            let may_be_forgotten =
                accepted.iter().filter(|item| item.call.time < now - call::MAX_AGE + call::MAX_AHEAD);
            let calls: Vec<RowKey> = may_be_forgotten
                .filter(|item| !known.contains(&item.claim))
                .map(|item| RowKey { user: item.user, created_at: item.call.time, id: item.claim })
                .collect();
            if !calls.is_empty() {
                let stored = usage_rows::find(&mut conn, &calls).await?;
                known.extend(stored.into_iter().map(|call| call.id));
            }
            known
        };
        Ok(accepted
            .into_iter()
            .filter(|item| {
                let is_known = projected.contains(&item.claim) || self.recent.contains(item.claim);
                if is_known {
                    receipt.duplicate(item.index);
                }
                !is_known
            })
            .collect())
    }

    /// Writes the calls to the log, and remembers them once they are there.
    async fn record(
        &self,
        reporter: &Reporter,
        fresh: Vec<Accepted<'_>>,
        receipt: &mut Receipt,
    ) -> Result<(), IngestError> {
        let data_keys = self.data_keys_of(&fresh).await?;
        let fresh = drop_repeated(drop_keyless(fresh, &data_keys, receipt), receipt);
        if fresh.is_empty() {
            if receipt.has_duplicates() {
                receipt.set_seq(self.publisher.last_acked());
                return Ok(());
            }
            // Nothing became of the request, and the same request may be better off later.
            return receipt.fault().map_or(Ok(()), |fault| Err(KeysError::from(fault.clone()).into()));
        }
        let mut json = Vec::with_capacity(fresh.len() * EVENT_BYTES);
        let mut ends = Vec::with_capacity(fresh.len());
        let mut classes = Vec::with_capacity(fresh.len());
        for item in &fresh {
            let classified = item.call.classify(&self.rules);
            let key = data_keys.get(&item.user).and_then(|key| key.as_deref().ok());
            events::encode(&item.call.event(item.user, key, &classified, reporter)?, &mut json);
            ends.push(json.len());
            classes.push(classified);
        }
        let bytes = json.len();
        let positions = self.publisher.publish_all(split(json, &ends)).await?;
        let last_seq = positions.iter().map(|position| position.seq).max().unwrap_or(0);
        receipt.set_seq(last_seq);
        for (item, classified) in fresh.iter().zip(&classes) {
            receipt.accept(item.index);
            metering::count(classified.category, classified.counted, 1);
        }
        self.recent.insert(fresh.iter().map(|item| item.claim));
        self.report(reporter, &fresh, &classes, &positions);
        if let Some(limits) = &self.limits {
            limits.reported_by(reporter.user, u64::try_from(bytes).unwrap_or(u64::MAX), last_seq);
        }
        Ok(())
    }

    /// The data keys of those of whom something is to be sealed.
    async fn data_keys_of(&self, fresh: &[Accepted<'_>]) -> Result<Found, IngestError> {
        let mut data_keys = Found::new();
        let mut unknown = Vec::new();
        for item in fresh.iter().filter(|item| item.call.is_personal()) {
            if data_keys.contains_key(&item.user) {
                continue;
            }
            match self.sealer.cached(item.user) {
                Some(key) => drop(data_keys.insert(item.user, Ok(key))),
                None => unknown.push(item.user),
            }
        }
        if !unknown.is_empty() {
            unknown.sort_unstable();
            unknown.dedup();
            data_keys.extend(self.sealer.data_keys_of(&unknown).await?);
        }
        Ok(data_keys)
    }

    /// Makes the calls count against what is admitted from now on.
    fn report(
        &self,
        reporter: &Reporter,
        fresh: &[Accepted<'_>],
        classes: &[Classified],
        positions: &[Position],
    ) {
        let Some(limits) = &self.limits else { return };
        // A retried check is decided at the first try's instant, which may be in the month before.
        let first_month = Month::of(self.clock.now()).prev();
        // The latest position is right for all: their units then count a little longer.
        let mut sums: HashMap<(UserId, Month), (Used, u64, u64)> = HashMap::new();
        for ((item, classified), position) in fresh.iter().zip(classes).zip(positions) {
            let month = Month::of(item.call.time);
            if !classified.counted || month < first_month {
                continue;
            }
            let (sum, calls, seq) = sums.entry((item.user, month)).or_default();
            *calls += 1;
            *sum = sum.plus(classified.category, u64::from(classified.units.get()));
            *seq = position.seq.max(*seq);
        }
        for ((user, month), (used, calls, seq)) in sums {
            let cost = Cost { used, key: reporter.key_of(user) };
            limits.report(user, month, cost, calls, seq);
        }
    }
}

/// Rejects what cannot be sealed, for its user's data key does not open. Other users' calls go on.
fn drop_keyless<'a>(fresh: Vec<Accepted<'a>>, data_keys: &Found, receipt: &mut Receipt) -> Vec<Accepted<'a>> {
    let mut rejected = 0_usize;
    let mut fresh = fresh;
    fresh.retain(|item| {
        if !item.call.is_personal() {
            return true;
        }
        match data_keys.get(&item.user) {
            Some(Ok(_)) => return true,
            Some(Err(error)) => receipt.reject_keyless(item.index, error),
            // The account went while the request was under way.
            None => receipt.reject(item.index, erased_user()),
        }
        rejected += 1;
        false
    });
    // A request of which nothing is left is refused, which is logged elsewhere.
    if let Some((user_id, error)) = data_keys.iter().find_map(|(user, key)| Some((user, key.as_ref().err()?)))
        && !fresh.is_empty()
    {
        let error = Chain(error).to_string();
        tracing::error!(%user_id, error, rejected, "a user's data key does not open; calls are rejected");
    }
    fresh
}

/// Drops what the request says twice. Last of all, so that nothing is called a duplicate of what is rejected.
fn drop_repeated<'a>(fresh: Vec<Accepted<'a>>, receipt: &mut Receipt) -> Vec<Accepted<'a>> {
    let mut seen = HashSet::with_capacity(fresh.len());
    let mut fresh = fresh;
    fresh.retain(|item| {
        let is_first = seen.insert(item.claim);
        if !is_first {
            receipt.duplicate(item.index);
        }
        is_first
    });
    fresh
}

/// Refusal of a call of a user who was erased.
pub fn erased_user() -> FieldError {
    FieldError::at("/subject", "subject_erased", "the user was erased, for ever")
}

/// Cuts one buffer into its events without copying them.
fn split(json: Vec<u8>, ends: &[usize]) -> Vec<EncodedEvent> {
    let json = Bytes::from(json);
    let mut start = 0;
    ends.iter()
        .map(|&end| {
            let event = json.slice(start..end);
            start = end;
            EncodedEvent::from(event)
        })
        .collect()
}
