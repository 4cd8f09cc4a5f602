//! Reads the projections about many users in one statement. Like the publisher's frames: while one statement runs, the
//! next one's users gather.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use ledger::{Clock, KeyId, Month, UserId};
use parking_lot::{Mutex, RwLock};
use sqlx::PgPool;
use store::read::limit_inputs::{Terms, UserReading};
use store::read::plans::{self, SoldPlan};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::LimitsError;
use super::table::Table;
use super::tally::{PlanDecision, Snapshot};
use crate::facts::Watermark;

/// Users read by one statement.
const MAX_BATCH: usize = 1_000;
/// A statement that takes longer is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two attempts to read while nobody is to be read.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Users with units of ours are read again this often while the projection moves.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);
/// Age at which the plans on offer are read again.
const PLANS_MAX_AGE: Duration = Duration::from_mins(1);
/// Different terms that are kept once for all users who have them.
const MAX_SHARED_TERMS: usize = 64;

/// Users that one statement reads, each with those who wait for it.
type Batch = HashMap<UserId, Vec<oneshot::Sender<bool>>>;

/// Users to read.
#[derive(Default)]
struct Waiting {
    /// Those for whom somebody waits.
    asked: Batch,
    /// Those of whom there is more to read.
    due: HashSet<UserId>,
}

impl Waiting {
    /// At most [`MAX_BATCH`] users; those for whom somebody waits go first.
    fn take(&mut self) -> Batch {
        let mut batch: Batch = self.asked.extract_if(|_, _| true).take(MAX_BATCH).collect();
        for user in self.due.extract_if(|_| true).take(MAX_BATCH - batch.len()) {
            batch.entry(user).or_default();
        }
        batch
    }
}

/// Gathers users to read, and reads them into the table.
pub(super) struct Reader {
    table: Arc<Table>,
    pool: PgPool,
    clock: Clock,
    /// None when nothing is read any more.
    waiting: Mutex<Option<Waiting>>,
    added: Notify,
    /// The last statement failed: until one succeeds, who is not known yet is refused.
    is_failing: AtomicBool,
    plans: RwLock<Arc<[SoldPlan]>>,
}

/// Memory of the task between statements.
#[derive(Default)]
struct Memory {
    shared_terms: Vec<Arc<Terms>>,
    plans_read_at: Option<Instant>,
}

impl Reader {
    pub(super) fn new(table: Arc<Table>, pool: PgPool, clock: Clock) -> Self {
        Self {
            table,
            pool,
            clock,
            waiting: Mutex::new(Some(Waiting::default())),
            added: Notify::new(),
            is_failing: AtomicBool::new(false),
            plans: RwLock::new(Arc::default()),
        }
    }

    /// Reads the user, by a statement that begins after this call.
    pub(super) async fn read(&self, user: UserId) -> Result<(), LimitsError> {
        let (tell, told) = oneshot::channel();
        // Where nothing is read any more `tell` is dropped, which `told` notices.
        if let Some(waiting) = &mut *self.waiting.lock() {
            waiting.asked.entry(user).or_default().push(tell);
        }
        self.added.notify_one();
        match told.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(LimitsError::Unreadable),
        }
    }

    /// The terms of the user's plan that were in force at an instant in the past.
    pub(super) async fn terms_at(&self, user: UserId, at: DateTime<Utc>) -> Result<Arc<Terms>, LimitsError> {
        let read = async {
            let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
            store::read::limit_inputs::terms_at(&mut conn, user, at).await
        };
        match timeout(READ_TIMEOUT, read).await {
            Ok(Ok(terms)) => Ok(Arc::new(terms)),
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot read an earlier plan");
                Err(LimitsError::Unreadable)
            }
            Err(_) => Err(LimitsError::Unreadable),
        }
    }

    /// Whether users can be read, as far as is known.
    pub(super) fn can_read(&self) -> bool {
        !self.is_failing.load(Ordering::Acquire)
    }

    /// The plans as sold, the smallest first.
    pub(super) fn plans(&self) -> Arc<[SoldPlan]> {
        Arc::clone(&self.plans.read())
    }

    fn request(&self, users: Vec<UserId>) {
        if users.is_empty() {
            return;
        }
        if let Some(waiting) = &mut *self.waiting.lock() {
            waiting.due.extend(users);
        }
        self.added.notify_one();
    }

    fn take(&self) -> Batch {
        self.waiting.lock().as_mut().map(Waiting::take).unwrap_or_default()
    }

    /// Reads until `shutdown`.
    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let work = async {
            let mut memory = Memory::default();
            loop {
                let batch = self.take();
                if batch.is_empty() {
                    if self.can_read() {
                        self.added.notified().await;
                        continue;
                    }
                    // Whether it works again is found out without anybody asking.
                    let _ = timeout(PROBE_INTERVAL, self.added.notified()).await;
                }
                let users: Vec<UserId> = batch.keys().copied().collect();
                let is_read = match timeout(READ_TIMEOUT, self.read_batch(&users, &mut memory)).await {
                    Ok(Ok(())) => true,
                    Ok(Err(error)) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            users = users.len(),
                            "cannot read counts"
                        );
                        false
                    }
                    Err(_) => {
                        tracing::warn!(users = users.len(), "reading counts took too long");
                        false
                    }
                };
                self.is_failing.store(!is_read, Ordering::Release);
                for (user, waiting) in batch {
                    if !is_read {
                        // Lists it again for the refresher, if it has anything to settle.
                        self.table.with_known(user, |_| (), || ());
                    }
                    for tell in waiting {
                        // Who stopped waiting needs no answer.
                        let _ = tell.send(is_read);
                    }
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
        // Nobody waits for a reading that does not come.
        *self.waiting.lock() = None;
    }

    async fn read_batch(&self, users: &[UserId], memory: &mut Memory) -> Result<(), store::Error> {
        let started = Instant::now();
        let generation = self.table.generation();
        let now = self.clock.now();
        let first_month = Month::of(now).prev();
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        if memory.plans_read_at.is_none_or(|at| at.elapsed() > PLANS_MAX_AGE) {
            *self.plans.write() = plans::sold(&mut conn).await?.into();
            memory.plans_read_at = Some(started);
        }
        let wanted: HashMap<UserId, Vec<KeyId>> = users
            .iter()
            .map(|user| (*user, self.table.with_known(*user, |entry| entry.tally.wanted(), Vec::new)))
            .filter(|(_, keys)| !keys.is_empty())
            .collect();
        let users: Vec<(UserId, bool)> =
            users.iter().map(|user| (*user, wanted.contains_key(user))).collect();
        let reading = store::read::limit_inputs::read(&mut conn, &users, first_month, now).await?;
        drop(conn);
        for user in reading.users {
            let id = user.user;
            let keys = wanted.get(&id).map_or(&[] as &[KeyId], Vec::as_slice);
            let snapshot = memory.snapshot(user, keys, reading.watermark, first_month);
            self.table.with_known(
                id,
                |entry| {
                    if self.table.generation() != generation {
                        return;
                    }
                    entry.tally.refresh(snapshot);
                    entry.read_at = Some(started);
                },
                || (),
            );
        }
        Ok(())
    }
}

impl Memory {
    /// A key that was asked for and has no count has used nothing.
    fn snapshot(
        &mut self,
        user: UserReading,
        keys: &[KeyId],
        watermark: u64,
        first_month: Month,
    ) -> Snapshot {
        let counted =
            |key: &KeyId| user.keys.iter().find(|(known, _)| known == key).map(|(_, counted)| *counted);
        let keys = keys.iter().map(|key| (*key, counted(key).unwrap_or_default())).collect();
        Snapshot {
            keys,
            watermark,
            first_month,
            counted: user.counted,
            current: self.share(user.current),
            current_from: user.current_from,
            pending: user.pending.map(|pending| PlanDecision {
                seq: pending.seq,
                effective_at: pending.effective_at,
                terms: self.share(pending.terms),
            }),
        }
    }

    fn share(&mut self, terms: Terms) -> Arc<Terms> {
        if let Some(shared) = self.shared_terms.iter().find(|shared| ***shared == terms) {
            return Arc::clone(shared);
        }
        let shared = Arc::new(terms);
        if self.shared_terms.len() < MAX_SHARED_TERMS {
            self.shared_terms.push(Arc::clone(&shared));
        }
        shared
    }
}

/// Has users read whose units the projection contains by now, so that what is kept of them stays small.
pub(super) async fn refresh(reader: Arc<Reader>, watermark: Watermark, shutdown: CancellationToken) {
    let work = async {
        let mut marks = watermark.subscribe();
        // The sender lives as long as `watermark`.
        while marks.changed().await.is_ok() {
            let seq = *marks.borrow_and_update();
            reader.request(reader.table.take_unsettled(seq));
            sleep(REFRESH_INTERVAL).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}
