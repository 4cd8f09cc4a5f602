//! The limiter: decides about calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ledger::limit::Used;
use ledger::{Clock, IdSource, Month, UserId};
use nats::{Log, Publisher};
use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::admission::{Admission, Hold};
use super::ask::{Ask, Standing};
use super::counts::{Answer, Counts};
use super::error::{LimitsError, Unready};
use super::fates::Fates;
use super::gate::{self, Gate};
use super::lock::{ApiLock, StartError};
use super::reader::{self, Reader};
use super::refusal::Refusal;
use super::rejections::Rejections;
use super::table::{Entry, Table};
use super::tally::PlanDecision;
use crate::config::{Enforcement, LimitFailureMode};
use crate::facts::Watermark;

/// A user who was not read for this long, though there is more to read, is read before the next decision: another
/// process (`import`) may have reported calls.
const MAX_AGE: Duration = Duration::from_secs(10);
/// A user is read at most this often only because a call would be refused.
const MIN_AGE_TO_REFUSE: Duration = Duration::from_millis(100);
/// How long the first decision about a user waits for reported calls to be counted.
const REPORTED_WAIT: Duration = Duration::from_secs(1);
/// Readings that one decision may need: a user may be forgotten again before it is decided about.
const MAX_READINGS: usize = 4;

/// Decides about calls. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

/// What [`Limits`] works with.
pub struct LimitsParts {
    /// For the session that holds the lock against a second api.
    pub database_url: String,
    /// Connections to PostgreSQL.
    pub pool: PgPool,
    /// The log.
    pub log: Log,
    /// Writes to the log.
    pub publisher: Publisher,
    /// How far the projections are.
    pub watermark: Watermark,
    /// The ledger's clock.
    pub clock: Clock,
    /// Ids of events.
    pub ids: IdSource,
    /// `ENFORCEMENT`.
    pub enforcement: Enforcement,
    /// `LIMIT_FAILURE_MODE`.
    pub failure_mode: LimitFailureMode,
    /// `MAX_UNPROJECTED`.
    pub max_unprojected: u64,
    /// `UPGRADE_URL`.
    pub upgrade_url: Option<Url>,
}

struct Inner {
    parts: LimitsParts,
    table: Arc<Table>,
    gate: Arc<Gate>,
    reader: Arc<Reader>,
    rejections: Arc<Rejections>,
    fates: Arc<Fates>,
    /// The task that keeps the gate, and hands back the lock against a second api.
    keeper: Mutex<Option<JoinHandle<ApiLock>>>,
    /// The highest position of a reported call whose user was not known here.
    reported_seq: AtomicU64,
}

/// What is decided about a call.
pub enum Verdict {
    /// It may happen; its units are held until it is recorded or dropped.
    Admitted(Admission),
    /// It may not.
    Refused(Refusal),
}

/// What [`Limits::preview`] foresees.
pub enum Preview {
    /// It would be admitted; how the user stands without it.
    Allowed(Standing),
    /// It would be refused.
    Refused(Refusal),
}

enum Step {
    Decided(Answer),
    /// Admitted although a limit is passed.
    Forced(Standing),
    ReadFirst,
}

impl Limits {
    /// Starts to decide: takes the lock against a second api, and opens when the projection has reached what the log
    /// holds now. Until then every decision is [`LimitsError::Unready`].
    pub async fn start(
        parts: LimitsParts,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, StartError> {
        let lock = ApiLock::acquire(parts.database_url.clone()).await?;
        let table = Arc::new(Table::new());
        let reader = Arc::new(Reader::new(Arc::clone(&table), parts.pool.clone(), parts.clock.clone()));
        let fates = Arc::new(Fates::new(Arc::clone(&table)));
        let gate = Arc::new(Gate::new());
        let rejections = Arc::new(Rejections::new());
        let (log, watermark, stop) = (&parts.log, &parts.watermark, shutdown);
        let keeper = tasks.spawn(gate::keep(
            Arc::clone(&gate),
            lock,
            Arc::clone(&table),
            log.clone(),
            watermark.clone(),
            stop.clone(),
        ));
        tasks.spawn(Arc::clone(&reader).run(stop.clone()));
        tasks.spawn(reader::refresh(Arc::clone(&reader), watermark.clone(), stop.clone()));
        tasks.spawn(Arc::clone(&fates).resolve(log.clone(), stop.clone()));
        tasks.spawn(Arc::clone(&rejections).run(
            parts.publisher.clone(),
            parts.clock.clone(),
            parts.ids.clone(),
            stop.clone(),
        ));
        Ok(Self(Arc::new(Inner {
            parts,
            table,
            gate,
            reader,
            rejections,
            fates,
            keeper: Mutex::new(Some(keeper)),
            reported_seq: AtomicU64::new(0),
        })))
    }

    /// Decides about a call and takes its units.
    pub async fn admit(&self, user: UserId, ask: Ask) -> Result<Verdict, LimitsError> {
        let inner = &self.0;
        inner.check_backlog()?;
        let decided = match inner.gate.check() {
            Ok(()) => inner.decide(user, &ask, true).await,
            Err(unready) => Err(unready.into()),
        };
        match decided {
            Ok(Step::Decided(Answer::Admitted(standing))) => {
                Ok(Verdict::Admitted(self.counted(user, &ask, Some(standing))))
            }
            Ok(Step::Forced(standing)) => {
                let hold = self.hold(user, &ask);
                let refusal = self.refuse(user, &ask, without(&standing, &ask), true);
                Ok(Verdict::Admitted(Admission::shadow(self.publisher(), hold, standing, refusal.meter())))
            }
            Ok(Step::Decided(Answer::Refused(standing))) => {
                Ok(Verdict::Refused(self.refuse(user, &ask, standing, false)))
            }
            Ok(Step::Decided(Answer::Unread) | Step::ReadFirst) => Err(LimitsError::Unreadable),
            Err(error)
                if inner.parts.failure_mode == LimitFailureMode::Open
                    && error != LimitsError::Unready(Unready::Stopping) =>
            {
                let standing = inner.table.with(user, |entry| entry.tally.force(&ask));
                Ok(Verdict::Admitted(self.counted(user, &ask, standing)))
            }
            Err(error) => Err(error),
        }
    }

    /// Admits a call that does not count: nothing is held for it.
    pub fn uncounted(&self) -> Admission {
        Admission::uncounted(self.publisher())
    }

    /// What [`Limits::admit`] would say, without taking anything.
    pub async fn preview(&self, user: UserId, ask: Ask) -> Result<Preview, LimitsError> {
        let inner = &self.0;
        inner.gate.check()?;
        match inner.decide(user, &ask, false).await? {
            Step::Decided(Answer::Admitted(standing)) => Ok(Preview::Allowed(standing)),
            Step::Decided(Answer::Refused(standing)) => {
                Ok(Preview::Refused(Refusal::new(standing, &ask, inner.reader.plans(), self.upgrade_url())))
            }
            Step::Decided(Answer::Unread) | Step::ReadFirst | Step::Forced(_) => Err(LimitsError::Unreadable),
        }
    }

    /// A decision about the user's plan is in the log: from now on it holds here.
    pub fn decide_plan(&self, user: UserId, decision: PlanDecision) {
        // Also for a user of whom nothing is known here: the next reading may come from before the decision.
        self.0.table.with(user, |entry| entry.tally.decide_plan(decision));
    }

    /// Something happened to the user's counts (a reset, an un-counted call) that must be seen before a call is refused.
    pub fn expire(&self, user: UserId) {
        self.0.table.with_known(user, |entry| entry.stale_since = Some(Instant::now()), || ());
    }

    /// Calls that happened are in the log at `seq`: they count here before the projection has them.
    pub fn report(&self, user: UserId, month: Month, cost: Used, seq: u64) {
        let inner = &self.0;
        inner.table.with_known(
            user,
            |entry| entry.tally.report(month, cost, seq),
            || {
                inner.reported_seq.fetch_max(seq, Ordering::AcqRel);
            },
        );
    }

    /// Whether calls pass while the database is away (`LIMIT_FAILURE_MODE=open`).
    pub(crate) fn is_open(&self) -> bool {
        self.0.parts.failure_mode == LimitFailureMode::Open
    }

    /// Whether ingest may write: with `LIMIT_FAILURE_MODE=closed` not while the database is away.
    pub fn check_database(&self) -> Result<(), LimitsError> {
        match self.0.gate.check() {
            Err(Unready::Database) if self.0.parts.failure_mode == LimitFailureMode::Closed => {
                Err(Unready::Database.into())
            }
            _ => Ok(()),
        }
    }

    /// Whether decisions can be made, and if not why: for readyz.
    pub fn readiness(&self) -> Result<(), Unready> {
        self.0.gate.check()
    }

    /// Lets another api decide. To be called when the work of [`Limits::start`] has ended and the publisher is closed:
    /// whatever was admitted here is in the log then, where the next process finds it.
    pub async fn release_lock(&self) {
        let keeper = self.0.keeper.lock().take();
        let Some(keeper) = keeper else { return };
        // A task that panicked has let go of the session, and thereby of the lock.
        if let Ok(lock) = keeper.await {
            lock.release().await;
        }
    }

    fn counted(&self, user: UserId, ask: &Ask, standing: Option<Standing>) -> Admission {
        Admission::counted(self.publisher(), self.hold(user, ask), standing)
    }

    fn publisher(&self) -> Publisher {
        self.0.parts.publisher.clone()
    }

    fn hold(&self, user: UserId, ask: &Ask) -> Hold {
        Hold::new(Arc::clone(&self.0.fates), user, ask.month, ask.cost())
    }

    fn refuse(&self, user: UserId, ask: &Ask, standing: Standing, shadow: bool) -> Refusal {
        let refusal = Refusal::new(standing, ask, self.0.reader.plans(), self.upgrade_url());
        self.0.rejections.count(user, refusal.meter(), shadow, ask.at);
        refusal
    }

    fn upgrade_url(&self) -> Option<&Url> {
        self.0.parts.upgrade_url.as_ref()
    }
}

impl Inner {
    fn check_backlog(&self) -> Result<(), LimitsError> {
        let units = self.table.outstanding_units();
        if units >= self.parts.max_unprojected { Err(LimitsError::Behind { units }) } else { Ok(()) }
    }

    /// Decides in memory; reads the user first where that is needed.
    async fn decide(&self, user: UserId, ask: &Ask, take: bool) -> Result<Step, LimitsError> {
        let mut is_fresh = false;
        for _ in 0..MAX_READINGS {
            match self.table.with(user, |entry| self.step(entry, ask, take, is_fresh)) {
                Step::ReadFirst => self.read(user).await?,
                decided => return Ok(decided),
            }
            is_fresh = true;
        }
        Err(LimitsError::Unreadable)
    }

    fn step(&self, entry: &mut Entry, ask: &Ask, take: bool, is_fresh: bool) -> Step {
        let Some(watermark) = entry.tally.watermark().filter(|&seq| seq >= self.table.floor()) else {
            return Step::ReadFirst;
        };
        let age = entry.read_at.map_or(Duration::MAX, |at| at.elapsed());
        let is_behind = watermark < self.parts.watermark.current();
        if !is_fresh && is_behind && age > MAX_AGE {
            return Step::ReadFirst;
        }
        let answer = if take { entry.tally.admit(ask) } else { entry.tally.preview(ask) };
        match answer {
            Answer::Unread => Step::ReadFirst,
            Answer::Refused(_)
                if !is_fresh && (entry.stale_since.is_some() || (is_behind && age > MIN_AGE_TO_REFUSE)) =>
            {
                Step::ReadFirst
            }
            Answer::Refused(standing) if take && self.parts.enforcement == Enforcement::Shadow => {
                Step::Forced(entry.tally.force(ask).unwrap_or(standing))
            }
            decided => Step::Decided(decided),
        }
    }

    /// Reads the user. Calls reported before somebody asked about this user were not noted under its name; the reading
    /// waits a moment until they are counted.
    async fn read(&self, user: UserId) -> Result<(), LimitsError> {
        let is_cold = self.table.with(user, |entry| entry.tally.watermark().is_none());
        let reported = self.reported_seq.load(Ordering::Acquire);
        if is_cold && reported > self.parts.watermark.current() {
            self.parts.watermark.wait_for(reported, REPORTED_WAIT).await;
        }
        self.reader.read(user).await
    }
}

/// How the user stood before a call was admitted.
fn without(standing: &Standing, ask: &Ask) -> Standing {
    let cost = ask.cost();
    let used = Used {
        total: standing.used.total.saturating_sub(cost.total),
        analyze: standing.used.analyze.saturating_sub(cost.analyze),
    };
    Standing { used, ..standing.clone() }
}
