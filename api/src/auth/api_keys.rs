//! API keys of this process: found by their hashes, remembered, forgotten when they change.
//!
//! A change is announced, and counted in the database; who has missed an announcement sees by the number, half a second
//! later at most, that there was one. While nobody knows whether there was, for ten seconds, no key is taken.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use credentials::{ApiKey, Environment, Hash};
use ledger::{Clock, KeyId};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use sqlx::PgPool;
use store::identity::api_keys::{self, Found};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::accounts::AccountsError;
use super::token::Reason;
use crate::http::problem::Chain;

/// Keys remembered at once, some 300 bytes each.
const CACHED: usize = 50_000;
/// Hashes remembered that are no key's.
const UNKNOWN: usize = 10_000;
/// Time for which a hash is not looked up again that was none.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// Keys that are looked up at once: whoever makes many up takes no more of the database than this.
const LOOKS: usize = 4;
/// Time that a look-up has, its turn included.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// Time between two looks at the number of changes.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Time for which what is remembered holds without such a look.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// A database that stays away is reported this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// A key's use is noted this often.
const NOTE_INTERVAL_MS: i64 = 60_000;
/// Time between two writes of what was noted.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
/// Uses that wait to be written; beyond it they are not noted.
const MAX_NOTED: usize = 10_000;

/// API keys. Cheap to clone.
#[derive(Clone)]
pub struct KnownKeys(Arc<Parts>);

struct Parts {
    pool: PgPool,
    clock: Clock,
    environment: Environment,
    by_hash: Cache<Hash, Arc<Known>>,
    /// Hashes of no key, and when that was found.
    unknown: Cache<Hash, Instant>,
    /// Counts invalidations: what was read before one must not be remembered after it.
    generation: AtomicU64,
    seen: Mutex<Seen>,
    looks: Semaphore,
    noted: Mutex<HashMap<KeyId, DateTime<Utc>>>,
}

/// Last look at the number of changes.
#[derive(Default)]
struct Seen {
    /// The number up to which changes are known; none before the first look.
    number: Option<i64>,
    /// Time at which the last look began that had an answer.
    at: Option<Instant>,
}

/// A remembered key.
pub(super) struct Known {
    pub(super) found: Found,
    /// Time at which its use was noted last, in milliseconds since 1970.
    noted_ms: AtomicI64,
}

/// Nobody knows whether keys have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stale;

impl KnownKeys {
    /// Keys of these surroundings, looked up through `pool`. None is taken before the first look at their changes.
    pub fn new(pool: PgPool, clock: Clock, environment: Environment) -> Self {
        Self(Arc::new(Parts {
            pool,
            clock,
            environment,
            by_hash: Cache::new(CACHED),
            unknown: Cache::new(UNKNOWN),
            generation: AtomicU64::new(0),
            seen: Mutex::default(),
            looks: Semaphore::new(LOOKS),
            noted: Mutex::default(),
        }))
    }

    /// The hash of a key of these surroundings. Nothing is looked up.
    pub(super) fn hash(&self, text: &str) -> Result<Hash, Reason> {
        ApiKey::parse(text, &self.0.environment).map(|key| key.hash()).map_err(Reason::from)
    }

    /// Tells whether what is remembered holds.
    pub(super) fn check_fresh(&self) -> Result<(), Stale> {
        let is_fresh = self.0.seen.lock().at.is_some_and(|at| at.elapsed() <= FRESH_FOR);
        if is_fresh { Ok(()) } else { Err(Stale) }
    }

    /// The key, if it is remembered. Never waits.
    pub(super) fn cached(&self, hash: &Hash) -> Option<Arc<Known>> {
        self.0.by_hash.get(hash)
    }

    /// The key, if there is one that is not revoked.
    pub(super) async fn find(&self, hash: &Hash) -> Result<Option<Arc<Known>>, AccountsError> {
        let parts = &*self.0;
        if parts.unknown.get(hash).is_some_and(|at| at.elapsed() < UNKNOWN_FOR) {
            return Ok(None);
        }
        let generation = parts.generation.load(Ordering::Acquire);
        let found = store::within("looking an API key up", LOOK_WITHIN, async {
            // Never closed.
            let _turn = parts.looks.acquire().await;
            let mut conn = parts.pool.acquire().await?;
            api_keys::find(&mut conn, hash).await
        });
        let Some(found) = found.await? else {
            parts.unknown.insert(*hash, Instant::now());
            if parts.generation.load(Ordering::Acquire) != generation {
                parts.unknown.remove(hash);
            }
            return Ok(None);
        };
        let known = Arc::new(Known { found, noted_ms: AtomicI64::new(i64::MIN) });
        parts.by_hash.insert(*hash, Arc::clone(&known));
        // Checked after the insertion: an invalidation in between may have come too early to remove it.
        if parts.generation.load(Ordering::Acquire) != generation {
            parts.by_hash.remove(hash);
        }
        Ok(Some(known))
    }

    /// Notes that the key is used now, if that was not noted within the last minute. Never waits.
    pub(super) fn note_use(&self, known: &Known, now: DateTime<Utc>) {
        let now_ms = now.timestamp_millis();
        let noted_ms = known.noted_ms.load(Ordering::Relaxed);
        if now_ms.saturating_sub(noted_ms) < NOTE_INTERVAL_MS {
            return;
        }
        let swapped = known.noted_ms.compare_exchange(noted_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        if swapped.is_err() {
            return;
        }
        let mut noted = self.0.noted.lock();
        if noted.len() < MAX_NOTED {
            noted.insert(known.found.id, now);
        }
    }

    /// Forgets a key that was changed here. Others are told by the database.
    pub(crate) fn forget(&self, key: KeyId) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.0.by_hash.retain(|_, known| known.found.id != key);
        self.0.unknown.clear();
    }

    /// Forgets all keys, when announcements may have been missed.
    pub(crate) fn forget_all(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.0.by_hash.clear();
        self.0.unknown.clear();
    }

    /// Forgets what an announcement names: the change's number, and the key.
    pub(crate) fn heard(&self, payload: &str) {
        let mut seen = self.0.seen.lock();
        let announced = payload.split_once(' ').and_then(|(number, key)| Some((number.parse().ok()?, key)));
        let Some((number, key)) = announced else { return self.forget_all() };
        let is_next = seen.number.is_some_and(|seen| seen.checked_add(1) == Some(number));
        match key.parse() {
            Ok(key) if is_next => self.forget(KeyId::new(key)),
            _ => self.forget_all(),
        }
        seen.number = seen.number.max(Some(number));
    }

    /// Looks whether keys have changed.
    pub(crate) async fn look(&self) -> Result<(), store::Error> {
        let began = Instant::now();
        let number = store::within("looking at changes of API keys", LOOK_WITHIN, async {
            let mut conn = self.0.pool.acquire().await?;
            api_keys::changes(&mut conn).await
        })
        .await?;
        let mut seen = self.0.seen.lock();
        if seen.number != Some(number) {
            self.forget_all();
        }
        *seen = Seen { number: Some(number), at: Some(began) };
        Ok(())
    }

    /// Looks again and again whether keys have changed, and writes down their uses, until `shutdown`.
    pub(crate) async fn follow(self, shutdown: CancellationToken) {
        let work = async {
            let mut interval = tokio::time::interval(POLL_INTERVAL);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let (mut reported, mut written): (Option<Instant>, _) = (None, Instant::now());
            loop {
                interval.tick().await;
                if let Err(error) = self.look().await
                    && reported.is_none_or(|at| at.elapsed() > REPORT_INTERVAL)
                {
                    tracing::warn!(error = %Chain(&error), "cannot tell whether API keys have changed; trying again");
                    reported = Some(Instant::now());
                }
                if written.elapsed() >= WRITE_INTERVAL {
                    written = Instant::now();
                    self.write_uses().await;
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
        self.write_uses().await;
    }

    /// Writes down the uses that were noted. What cannot be written is noted again a minute later.
    async fn write_uses(&self) {
        let mut uses: Vec<_> = std::mem::take(&mut *self.0.noted.lock()).into_iter().collect();
        if uses.is_empty() {
            return;
        }
        // In order, as whoever else writes them does.
        uses.sort_unstable();
        let written = store::within("writing uses of API keys down", LOOK_WITHIN, async {
            let mut conn = self.0.pool.acquire().await?;
            api_keys::used(&mut conn, &uses).await
        });
        if let Err(error) = written.await {
            tracing::debug!(error = %Chain(&error), "uses of API keys were not written down");
        }
    }

    /// The ledger's time.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.0.clock.now()
    }
}

impl Known {
    /// Tells whether the key is valid at `now`, from this address.
    pub(super) fn valid_at(&self, now: DateTime<Utc>, address: IpAddr) -> Result<(), Reason> {
        let Found { terms, secret_ends_at, .. } = &self.found;
        let is_over = |end: &Option<DateTime<Utc>>| end.is_some_and(|end| end <= now);
        if is_over(&terms.expires_at) || is_over(secret_ends_at) {
            Err(Reason::Expired)
        } else if !terms.networks.allow(address) {
            Err(Reason::Network)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> KnownKeys {
        let pool = PgPool::connect_lazy("postgres://nobody@127.0.0.1:9/nothing").unwrap();
        KnownKeys::new(pool, Clock::system(), Environment::default())
    }

    fn remember(keys: &KnownKeys, id: u8) {
        let found = Found {
            id: KeyId::new(uuid::Uuid::from_u128(id.into())),
            user: ledger::UserId::new(uuid::Uuid::from_u128(7)),
            role: credentials::KeyRole::User,
            terms: api_keys::Terms::default(),
            secret_ends_at: None,
        };
        let known = Known { found, noted_ms: AtomicI64::new(i64::MIN) };
        keys.0.by_hash.insert([id; 32], Arc::new(known));
    }

    #[tokio::test]
    async fn a_change_that_follows_takes_one_key_and_one_that_does_not_takes_all() {
        let keys = keys();
        let known = |id: u8| keys.cached(&[id; 32]).is_some();
        let id = |id: u128| uuid::Uuid::from_u128(id);
        assert_eq!(keys.check_fresh(), Err(Stale), "before the first look");
        *keys.0.seen.lock() = Seen { number: Some(4), at: Some(Instant::now()) };
        assert_eq!(keys.check_fresh(), Ok(()));
        remember(&keys, 1);
        remember(&keys, 2);
        keys.heard(&format!("5 {}", id(1)));
        assert!(!known(1) && known(2));
        // The sixth was missed.
        keys.heard(&format!("7 {}", id(1)));
        assert!(!known(2));
        for payload in ["8 *", "", "8", "x y"] {
            remember(&keys, 2);
            keys.heard(payload);
            assert!(!known(2), "{payload:?}");
        }
        let long_ago = Instant::now().checked_sub(FRESH_FOR + Duration::from_secs(1)).unwrap();
        *keys.0.seen.lock() = Seen { number: Some(8), at: Some(long_ago) };
        assert_eq!(keys.check_fresh(), Err(Stale));
    }
}
