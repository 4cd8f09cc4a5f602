//! The limiter: decides about calls.

use std::sync::Arc;
use std::time::Duration;

use ledger::{Clock, IdSource, Month, UserId};
use nats::{Log, Publisher, Term};
use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::admission::{Admission, Hold, Way};
use super::ask::{Ask, Cost, Policy, Standing};
use super::backlog::{self, Backlog, Stage, Unprojected};
use super::error::{LimitsError, Unready};
use super::fates::Fates;
use super::gate::{self, Gate};
use super::lock::{ApiLock, StartError};
use super::projected::{Decided, Intent, Projected};
use super::refusal::Refusal;
use super::rejections::Rejections;
use super::tally::PlanDecision;
use crate::config::{Enforcement, LimitFailureMode};
use crate::facts::Watermark;

/// Decides about calls. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Limiter>);

/// Resources and settings of [`Limits`].
pub struct LimitsParts {
    /// Address of the database, for the session that holds the lock against a second api.
    pub database_url: String,
    /// Connections to PostgreSQL.
    pub pool: PgPool,
    /// The log.
    pub log: Log,
    /// Writes to the log.
    pub publisher: Publisher,
    /// Position of the projections.
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
    /// `MAX_LAG`.
    pub max_lag: Duration,
    /// `UPGRADE_URL`.
    pub upgrade_url: Option<Url>,
}

/// Insides of [`Limits`], shared by its clones.
struct Limiter {
    counts: Arc<Projected>,
    gate: Arc<Gate>,
    backlog: Arc<Backlog>,
    fates: Arc<Fates>,
    rejections: Rejections,
    publisher: Publisher,
    /// Intent of every [`Limits::admit`], by `ENFORCEMENT`.
    intent: Intent,
    failure_mode: LimitFailureMode,
    max_unprojected: u64,
    upgrade_url: Option<Url>,
    /// The task that keeps the gate, and hands back the lock against a second api.
    keeper: Mutex<Option<JoinHandle<ApiLock>>>,
}

/// Decision about a call.
pub enum Verdict {
    /// The call may happen; its units are held until it is recorded or dropped.
    Admitted(Admission),
    /// The call may not happen.
    Refused(Refusal),
}

/// Decision about a call that only asks.
pub enum Preview {
    /// The call would be admitted; the user stands so without it.
    Allowed(Standing),
    /// The call would be refused.
    Refused(Refusal),
    /// Nobody can say, and calls pass all the same (`LIMIT_FAILURE_MODE=open`).
    Unknown,
}

impl Limits {
    /// Starts to decide: takes the lock against a second api, and opens when the projection has reached what the log
    /// holds now. Until then every decision is [`LimitsError::Unready`].
    pub async fn start(
        parts: LimitsParts,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, StartError> {
        let LimitsParts { database_url, pool, log, publisher, watermark, clock, ids, .. } = parts;
        let lock = ApiLock::acquire(database_url, ids.random_id()).await?;
        let counts = Arc::new(Projected::new(pool, clock.clone(), watermark.clone()));
        let gate = Arc::new(Gate::new(lock.lease().clone()));
        let backlog = Arc::new(Backlog::new(parts.max_lag, publisher.clone(), watermark.clone()));
        let fates = Arc::new(Fates::new(Arc::clone(&counts)));
        let rejections = Rejections::default();
        counts.spawn(tasks, shutdown);
        tasks.spawn(Arc::clone(&backlog).watch(shutdown.clone()));
        let keeper = tasks.spawn(gate::keep(
            Arc::clone(&gate),
            lock,
            Arc::clone(&counts),
            log.clone(),
            watermark,
            shutdown.clone(),
        ));
        tasks.spawn(Arc::clone(&fates).resolve(log, shutdown.clone()));
        tasks.spawn(Arc::clone(&rejections.0).run(publisher.clone(), clock, ids, shutdown.clone()));
        let intent = match parts.enforcement {
            Enforcement::Enforce => Intent::Take,
            Enforcement::Shadow => Intent::Force,
        };
        Ok(Self(Arc::new(Limiter {
            counts,
            gate,
            backlog,
            fates,
            rejections,
            publisher,
            intent,
            failure_mode: parts.failure_mode,
            max_unprojected: parts.max_unprojected,
            upgrade_url: parts.upgrade_url,
            keeper: Mutex::new(Some(keeper)),
        })))
    }

    /// Decides about a call and takes its units.
    pub async fn admit(&self, user: UserId, ask: Ask) -> Result<Verdict, LimitsError> {
        let limiter = &self.0;
        limiter.check_backlog(user)?;
        match limiter.decide(user, &ask).await {
            Ok((Decided::Admitted(standing), term)) => {
                Ok(Verdict::Admitted(limiter.counted(user, &ask, Some(standing), Some(term))))
            }
            Ok((Decided::Forced(standing), term)) => {
                let hold = limiter.hold(user, &ask);
                let refusal = limiter.refuse(user, &ask, standing.without(&ask), true);
                let way = limiter.way(Some(term));
                Ok(Verdict::Admitted(Admission::shadow(way, hold, standing, refusal.policy())))
            }
            Ok((Decided::Refused(standing), _)) => {
                Ok(Verdict::Refused(limiter.refuse(user, &ask, standing, false)))
            }
            Err(error) if limiter.passes(error) => {
                let standing = limiter.counts.force(user, &ask);
                Ok(Verdict::Admitted(limiter.counted(user, &ask, standing, None)))
            }
            Err(error) => Err(error),
        }
    }

    /// Admits a call that does not count: nothing is held for it.
    pub fn uncounted(&self) -> Admission {
        Admission::uncounted(self.0.way(None))
    }

    /// Says what [`Limits::admit`] would, without taking anything.
    pub async fn preview(&self, user: UserId, ask: Ask) -> Result<Preview, LimitsError> {
        let limiter = &self.0;
        match limiter.look(user, &ask).await {
            // Nothing is forced where nothing is taken.
            Ok(Decided::Admitted(standing) | Decided::Forced(standing)) => Ok(Preview::Allowed(standing)),
            Ok(Decided::Refused(standing)) => Ok(Preview::Refused(limiter.refusal(&ask, standing))),
            Err(error) if limiter.passes(error) => Ok(Preview::Unknown),
            Err(error) => Err(error),
        }
    }

    /// Makes a decision about the user's plan, which is in the log, hold here from now on.
    pub fn decide_plan(&self, user: UserId, decision: PlanDecision) {
        self.0.counts.decide_plan(user, decision);
    }

    /// Has the user's counts read before a call is refused, once the projections have come to `seq`: an event there
    /// gives units back (a reset, an un-counted call).
    pub fn read_at(&self, user: UserId, seq: u64) {
        self.0.counts.read_at(user, seq);
    }

    /// Counts so many calls that happened and are in the log at `seq`, before the projection has them.
    pub fn report(&self, user: UserId, month: Month, cost: Cost, calls: u64, seq: u64) {
        self.0.counts.report(user, month, cost, calls, seq);
    }

    /// Tells whether calls that this account reports are taken in now.
    ///
    /// # Errors
    /// [`LimitsError::Shed`] while the projection is behind and it is the reporter's turn to wait.
    pub fn check_reporter(&self, reporter: UserId) -> Result<(), LimitsError> {
        self.0.backlog.check_reporter(reporter)
    }

    /// This account's report is in the log: so many bytes, the last of them at `seq`.
    pub fn reported_by(&self, reporter: UserId, bytes: u64, seq: u64) {
        self.0.backlog.reported(reporter, bytes, seq);
    }

    /// Whoever has to wait for the projection now: for readyz.
    pub fn backlog_stage(&self) -> Stage {
        self.0.backlog.stage()
    }

    /// Tells whether calls pass while the database is away (`LIMIT_FAILURE_MODE=open`).
    pub(crate) fn is_open(&self) -> bool {
        self.0.failure_mode == LimitFailureMode::Open
    }

    /// Tells whether ingest may write: with `LIMIT_FAILURE_MODE=closed` not while the database is away.
    pub fn check_database(&self) -> Result<(), LimitsError> {
        match self.0.gate.check() {
            Err(Unready::Database) if self.0.failure_mode == LimitFailureMode::Closed => {
                Err(Unready::Database.into())
            }
            _ => Ok(()),
        }
    }

    /// Tells whether decisions can be made, and if not why: for readyz.
    pub fn readiness(&self) -> Result<(), Unready> {
        let _ = self.0.gate.check()?;
        if !self.0.counts.can_read() {
            return Err(Unready::Database);
        }
        let (_, users) = self.0.counts.outstanding();
        if backlog::is_crowded(users) { Err(Unready::Crowded) } else { Ok(()) }
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
}

impl Limiter {
    fn check_backlog(&self, user: UserId) -> Result<(), LimitsError> {
        let (all_calls, users) = self.counts.outstanding();
        let unprojected = Unprojected { all_calls, users, most_of_one: self.max_unprojected };
        let stage = self.backlog.stage();
        // As good as always there is so little that nobody can have too much.
        if unprojected.is_little() && stage < Stage::Admission {
            return Ok(());
        }
        match unprojected.check(self.counts.outstanding_calls_of(user), stage) {
            // The worker is away with the database, and calls are to pass.
            Err(error @ LimitsError::Behind { .. }) if self.passes(error) => Ok(()),
            checked => checked,
        }
    }

    /// Whether calls pass although this keeps them from being decided (`LIMIT_FAILURE_MODE=open`).
    fn passes(&self, error: LimitsError) -> bool {
        self.failure_mode == LimitFailureMode::Open && error != LimitsError::Unready(Unready::Stopping)
    }

    async fn look(&self, user: UserId, ask: &Ask) -> Result<Decided, LimitsError> {
        self.gate.check()?;
        self.counts.decide(user, ask, Intent::Look).await
    }

    /// Decides and takes the units, in a term in which this process alone decides.
    async fn decide(&self, user: UserId, ask: &Ask) -> Result<(Decided, Term), LimitsError> {
        let term = self.gate.check()?;
        let decided = self.counts.decide(user, ask, self.intent).await?;
        // The user may have had to be read, and another process may have taken over meanwhile.
        if let Err(unready) = self.gate.check_in(&term) {
            if matches!(decided, Decided::Admitted(_) | Decided::Forced(_)) {
                self.counts.release(user, ask.month, ask.cost());
            }
            return Err(unready.into());
        }
        Ok((decided, term))
    }

    /// The way of admitted calls into the log. Where calls pass without the database, they pass without the lock.
    fn way(&self, term: Option<Term>) -> Way {
        let term = term.filter(|_| self.failure_mode == LimitFailureMode::Closed);
        Way { publisher: self.publisher.clone(), term }
    }

    fn counted(&self, user: UserId, ask: &Ask, standing: Option<Standing>, term: Option<Term>) -> Admission {
        Admission::counted(self.way(term), self.hold(user, ask), standing)
    }

    fn hold(&self, user: UserId, ask: &Ask) -> Hold {
        Hold::new(Arc::clone(&self.fates), user, ask.month, ask.cost())
    }

    fn refuse(&self, user: UserId, ask: &Ask, standing: Standing, shadow: bool) -> Refusal {
        let refusal = self.refusal(ask, standing);
        let key = ask.key.map(|key| key.id).filter(|_| refusal.policy() == Policy::Key);
        self.rejections.count(user, refusal.policy(), key, shadow, ask.at);
        refusal
    }

    fn refusal(&self, ask: &Ask, standing: Standing) -> Refusal {
        Refusal::new(standing, ask, self.counts.plans(), self.upgrade_url.as_ref())
    }
}
