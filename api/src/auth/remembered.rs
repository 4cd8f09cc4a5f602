//! Credentials of one kind that this process remembers by their hashes, and forgets when they change.

use std::collections::HashMap;
use std::hash::Hash as HashKey;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use credentials::Hash;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use sqlx::{PgConnection, PgPool};
use tokio::sync::Semaphore;

use crate::http::problem::Chain;

/// Credentials remembered at once, some 300 bytes each.
const CACHED: usize = 50_000;
/// Hashes remembered that are no credential's.
const UNKNOWN: usize = 10_000;
/// Time for which a hash is not looked up again that was none.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// Credentials that are looked up at once: whoever makes many up takes no more of the database than this.
const LOOKS: usize = 4;
/// Time that a look-up has, its turn included.
pub(super) const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// A credential's use is noted this often.
const NOTE_INTERVAL_MS: i64 = 60_000;
/// Uses that wait to be written; beyond it they are not noted.
const MAX_NOTED: usize = 10_000;

/// Credentials of one kind: `T` is what is known of one, `I` its id.
pub(super) struct Remembered<I, T> {
    pool: PgPool,
    by_hash: Cache<Hash, Arc<Known<T>>>,
    /// Hashes of no credential, and when that was found.
    unknown: Cache<Hash, Instant>,
    /// Counts invalidations: what was read before one must not be remembered after it.
    generation: AtomicU64,
    looks: Semaphore,
    noted: Mutex<HashMap<I, DateTime<Utc>>>,
}

/// A remembered credential.
pub(super) struct Known<T> {
    pub(super) found: T,
    /// Time of its last use that is known here, give or take a minute, in milliseconds since 1970.
    used_ms: AtomicI64,
}

impl<T> Known<T> {
    /// What was found, with the time of its last use as far as the table says it.
    pub(super) fn new(found: T, last_used_at: Option<DateTime<Utc>>) -> Self {
        let used_ms = last_used_at.map_or(i64::MIN, |at| at.timestamp_millis());
        Self { found, used_ms: AtomicI64::new(used_ms) }
    }

    /// Time of its last use that is known here, give or take a minute, in milliseconds since 1970.
    pub(super) fn used_ms(&self) -> i64 {
        self.used_ms.load(Ordering::Relaxed)
    }
}

impl<I: HashKey + Ord, T> Remembered<I, T> {
    /// Credentials that are looked up through `pool`. None is remembered yet.
    pub(super) fn new(pool: PgPool) -> Self {
        Self {
            pool,
            by_hash: Cache::new(CACHED),
            unknown: Cache::new(UNKNOWN),
            generation: AtomicU64::new(0),
            looks: Semaphore::new(LOOKS),
            noted: Mutex::default(),
        }
    }

    /// The credential, if it is remembered. Never waits.
    pub(super) fn cached(&self, hash: &Hash) -> Option<Arc<Known<T>>> {
        self.by_hash.get(hash)
    }

    /// The credential, if `look` finds one; it has [`LOOK_WITHIN`] for that.
    pub(super) async fn find(
        &self,
        hash: &Hash,
        what: &'static str,
        look: impl AsyncFnOnce(&mut PgConnection) -> Result<Option<Known<T>>, store::Error>,
    ) -> Result<Option<Arc<Known<T>>>, store::Error> {
        if self.unknown.get(hash).is_some_and(|at| at.elapsed() < UNKNOWN_FOR) {
            return Ok(None);
        }
        let generation = self.generation.load(Ordering::Acquire);
        let found = store::within(what, LOOK_WITHIN, async {
            // Never closed.
            let _turn = self.looks.acquire().await;
            let mut conn = self.pool.acquire().await?;
            look(&mut conn).await
        });
        let Some(known) = found.await? else {
            self.unknown.insert(*hash, Instant::now());
            if self.generation.load(Ordering::Acquire) != generation {
                self.unknown.remove(hash);
            }
            return Ok(None);
        };
        let known = Arc::new(known);
        self.by_hash.insert(*hash, Arc::clone(&known));
        // Checked after the insertion: an invalidation in between may have come too early to remove it.
        if self.generation.load(Ordering::Acquire) != generation {
            self.by_hash.remove(hash);
        }
        Ok(Some(known))
    }

    /// Notes that it is used now, if that was not noted within the last minute. Never waits.
    pub(super) fn note_use(&self, id: I, known: &Known<T>, now: DateTime<Utc>) {
        let now_ms = now.timestamp_millis();
        let used_ms = known.used_ms();
        if now_ms.saturating_sub(used_ms) < NOTE_INTERVAL_MS {
            return;
        }
        let swapped = known.used_ms.compare_exchange(used_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        if swapped.is_err() {
            return;
        }
        let mut noted = self.noted.lock();
        if noted.len() < MAX_NOTED {
            noted.insert(id, now);
        }
    }

    /// Writes down the uses that were noted, in order, as whoever else writes them does. What cannot be written is
    /// noted again a minute later.
    pub(super) async fn write_uses(
        &self,
        what: &'static str,
        write: impl AsyncFnOnce(&mut PgConnection, &[(I, DateTime<Utc>)]) -> Result<(), store::Error>,
    ) {
        let mut uses: Vec<_> = std::mem::take(&mut *self.noted.lock()).into_iter().collect();
        if uses.is_empty() {
            return;
        }
        uses.sort_unstable();
        let written = store::within(what, LOOK_WITHIN, async {
            let mut conn = self.pool.acquire().await?;
            write(&mut conn, &uses).await
        });
        if let Err(error) = written.await {
            tracing::debug!(error = %Chain(&error), what, "uses of credentials were not written down");
        }
    }

    /// Forgets what is remembered under this hash: it is looked up anew.
    pub(super) fn forget_hash(&self, hash: &Hash) {
        self.by_hash.remove(hash);
    }

    /// Forgets those of which this is true, and all hashes that were none.
    pub(super) fn forget(&self, is_gone: impl Fn(&T) -> bool) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.by_hash.retain(|_, known| !is_gone(&known.found));
        self.unknown.clear();
    }

    /// Forgets everything.
    pub(super) fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.by_hash.clear();
        self.unknown.clear();
    }
}
