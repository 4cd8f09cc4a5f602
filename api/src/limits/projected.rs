//! Counts of all users by the projections: today's source.
//!
//! A user is read when a decision needs it, and decided about in memory from then on. This is what leases replace: here
//! a user is read when the last reading is too old to decide by; there, units are asked for when too few are left.

use std::sync::Arc;
use std::time::Duration;

use ledger::{Clock, Month, UserId};
use sqlx::PgPool;
use store::read::plans::SoldPlan;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ask::{Ask, Cost, Standing};
use super::counts::{Answer, Counts};
use super::error::LimitsError;
use super::reader::{self, Reader};
use super::table::{Entry, Table};
use super::tally::PlanDecision;
use crate::facts::Watermark;

/// A user who was not read for this long, though there is more to read, is read before the next decision: another
/// process (`import`) may have reported calls.
const MAX_AGE: Duration = Duration::from_secs(10);
/// A user is read at most this often only because a call would be refused.
const MIN_AGE_TO_REFUSE: Duration = Duration::from_millis(100);
/// Longest time that the first decision about a user waits for calls that were reported before it to be projected.
const REPORTED_WAIT: Duration = Duration::from_secs(5);
/// Readings that one decision may need: a user may be forgotten again before it is decided about.
const MAX_READINGS: usize = 4;

/// Counts of all users, kept as fresh as decisions need them.
pub(super) struct Projected {
    table: Arc<Table>,
    reader: Arc<Reader>,
    watermark: Watermark,
}

/// Intent of a decision with the units of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// Take nothing.
    Look,
    /// Take them if the call may happen.
    Take,
    /// Take them in any case.
    Force,
}

/// A decision about a call.
pub(super) enum Decided {
    /// No limit is passed.
    Admitted(Standing),
    /// A limit is passed; the units are taken all the same.
    Forced(Standing),
    /// A limit would be passed; nothing is taken.
    Refused(Standing),
}

impl Projected {
    /// Counts that nothing is known of yet.
    pub(super) fn new(pool: PgPool, clock: Clock, watermark: Watermark) -> Self {
        let table = Arc::new(Table::new());
        let reader = Arc::new(Reader::new(Arc::clone(&table), pool, clock));
        Self { table, reader, watermark }
    }

    /// Reads users until `shutdown`.
    pub(super) fn spawn(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        tasks.spawn(Arc::clone(&self.reader).run(shutdown.clone()));
        let (reader, watermark) = (Arc::clone(&self.reader), self.watermark.clone());
        tasks.spawn(reader::refresh(reader, watermark, shutdown.clone()));
    }

    /// Decides in memory; reads the user first where that is needed.
    pub(super) async fn decide(
        &self,
        user: UserId,
        ask: &Ask,
        intent: Intent,
    ) -> Result<Decided, LimitsError> {
        let (mut is_fresh, mut earlier) = (false, None);
        for _ in 0..MAX_READINGS {
            let (decided, lacks_terms) = self.table.with(user, |entry| {
                if let Some(terms) = &earlier {
                    entry.tally.set_earlier_terms(ask.at, Arc::clone(terms));
                }
                let decided = self.try_decide(entry, ask, intent, is_fresh);
                let lacks_terms = decided.is_none() && entry.tally.lacks_terms(ask.at);
                (decided, lacks_terms)
            });
            match decided {
                Some(decided) => return Ok(decided),
                None if lacks_terms => earlier = Some(self.reader.terms_at(user, ask.at).await?),
                None => {
                    self.read(user).await?;
                    is_fresh = true;
                }
            }
        }
        Err(LimitsError::Unreadable)
    }

    /// Takes the units whatever is known of the user. Answers the standing then, if it is known.
    pub(super) fn force(&self, user: UserId, ask: &Ask) -> Option<Standing> {
        self.table.with(user, |entry| entry.tally.force(ask))
    }

    /// Gives back units taken earlier that are certainly not in the log.
    pub(super) fn release(&self, user: UserId, month: Month, cost: Cost) {
        self.table.with(user, |entry| entry.tally.release(month, cost));
    }

    /// Settles units taken earlier that are in the log at this sequence.
    pub(super) fn settle(&self, user: UserId, month: Month, cost: Cost, seq: u64) {
        self.table.with(user, |entry| entry.tally.settle(month, cost, seq));
    }

    /// Counts so many calls that happened and are in the log at this sequence.
    pub(super) fn report(&self, user: UserId, month: Month, cost: Cost, calls: u64, seq: u64) {
        self.table.report(user, seq, |entry| entry.tally.report(month, cost, calls, seq));
    }

    /// Decides by a plan from now on that is in the log.
    pub(super) fn decide_plan(&self, user: UserId, decision: PlanDecision) {
        // Also for a user of whom nothing is known here: the next reading may come from before the decision.
        self.table.with(user, |entry| entry.tally.decide_plan(decision));
    }

    /// Has the user read before a call is refused, once the projections have come to `seq`.
    pub(super) fn read_at(&self, user: UserId, seq: u64) {
        self.table.with_known(user, |entry| entry.less_at = entry.less_at.max(seq), || ());
    }

    /// Says that readings at `seq` and later contain what was admitted elsewhere; earlier ones are not decided by.
    pub(super) fn set_floor(&self, seq: u64) {
        self.table.set_floor(seq);
    }

    /// Forgets what was read of all users, and nothing else: each is read anew before the next decision.
    pub(super) fn forget_readings(&self) {
        self.table.forget_readings();
    }

    /// Calls of the user that no reading contains yet.
    pub(super) fn outstanding_calls_of(&self, user: UserId) -> u64 {
        self.table.with_known(user, |entry| entry.tally.outstanding_calls(), || 0)
    }

    /// Calls that no reading contains yet, of all users, and how many users have any.
    pub(super) fn outstanding(&self) -> (u64, u64) {
        (self.table.outstanding_calls(), self.table.users_outstanding())
    }

    /// Whether users can be read, as far as is known.
    pub(super) fn can_read(&self) -> bool {
        self.reader.can_read()
    }

    /// The plans as sold, the smallest first.
    pub(super) fn plans(&self) -> Arc<[SoldPlan]> {
        self.reader.plans()
    }

    /// None when the user has to be read first.
    fn try_decide(&self, entry: &mut Entry, ask: &Ask, intent: Intent, is_fresh: bool) -> Option<Decided> {
        if let Some((key, _)) = ask.budget() {
            entry.tally.want(key);
        }
        let lowest = self.table.floor().max(entry.needed_seq);
        let watermark = entry.tally.watermark().filter(|&seq| seq >= lowest)?;
        let age = entry.read_at.map_or(Duration::MAX, |at| at.elapsed());
        let is_behind = watermark < self.watermark.current();
        if !is_fresh && is_behind && age > MAX_AGE {
            return None;
        }
        let answer = match intent {
            Intent::Look => entry.tally.preview(ask),
            Intent::Take | Intent::Force => entry.tally.admit(ask),
        };
        match answer {
            Answer::Unread => None,
            Answer::Admitted(standing) => Some(Decided::Admitted(standing)),
            Answer::Refused(_)
                if !is_fresh && is_behind && (watermark < entry.less_at || age > MIN_AGE_TO_REFUSE) =>
            {
                None
            }
            Answer::Refused(standing) if intent == Intent::Force => {
                Some(Decided::Forced(entry.tally.force(ask).unwrap_or(standing)))
            }
            Answer::Refused(standing) => Some(Decided::Refused(standing)),
        }
    }

    /// Reads the user. Calls reported before somebody asked about this user are not in its tally, so nothing is decided
    /// by a reading that does not contain them.
    async fn read(&self, user: UserId) -> Result<(), LimitsError> {
        let needed_seq = self.table.with(user, |entry| entry.needed_seq);
        let is_late = needed_seq > self.watermark.current();
        if is_late && !self.watermark.wait_for(needed_seq, REPORTED_WAIT).await {
            return Err(LimitsError::Uncounted);
        }
        self.reader.read(user).await
    }
}
