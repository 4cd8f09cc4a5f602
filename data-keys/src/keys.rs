//! Users' opened data keys in one process, and the cache of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use ledger::{Clock, UserId};
use quick_cache::sync::Cache;
use secrecy::SecretString;
use sqlx::PgConnection;
use store::identity::wrapped_keys::{self, WrappedKey};
use tokio::sync::OnceCell;
use vault::{DataKey, DataKeyError, DekId, KeyRing, LedgerKey, OsEntropy};

use crate::config::KeyConfig;
use crate::error::KeysError;
use crate::start;
use crate::wrapped::open;

/// Users' data keys, or why one does not open. Who has none is not among them: one user's key that does not open is no
/// other user's concern.
pub type Found = HashMap<UserId, Result<Arc<DataKey>, DataKeyError>>;

/// Opened data keys that are remembered, about 1.6 KiB each.
const CACHED: usize = 20_000;
/// Time that the database has at the start; afterwards it counts as one that does not answer yet.
const PROVE_WITHIN: Duration = Duration::from_secs(10);

/// The data keys of one process. Cheap to clone. Somebody must tell it of those that are destroyed: [`Keys::follow`],
/// or whoever follows the channel of users anyway.
#[derive(Clone)]
pub struct Keys(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) ring: KeyRing,
    /// When the database first saw the current root key; known once the ring was held against it.
    proven: OnceLock<DateTime<Utc>>,
    pub(crate) clock: Clock,
    opened: Cache<UserId, Arc<DataKey>>,
    /// The database, for the ledger's own data key alone.
    pub(crate) database_url: SecretString,
    /// The ledger's own data key, once it was needed.
    pub(crate) ledger: OnceCell<LedgerKey>,
    /// Counts invalidations: what was read before one must not be remembered after it.
    generation: AtomicU64,
}

impl Keys {
    /// Reads the root keys and holds them against the database, before anything is sealed or opened. The check values
    /// of new root keys are stored. When the database does not answer yet, this is done as soon as a data key is asked
    /// for.
    ///
    /// # Errors
    /// A root key is missing, malformed, not the one of its name, or none of those that the stored data keys need.
    pub async fn start(database_url: &str, config: &KeyConfig, clock: &Clock) -> Result<Self, KeysError> {
        let proven = store::within("holding the root keys against the database", PROVE_WITHIN, async {
            let mut conn = store::connect(database_url, store::Schema::Live).await?;
            start::proven(&mut conn, config, clock.now()).await
        });
        let (ring, proven) = match proven.await {
            Ok((ring, seen)) => (ring, OnceLock::from(seen)),
            Err(KeysError::Store(error)) if error.is_unavailable() => {
                (start::unproven(config)?, OnceLock::new())
            }
            Err(error) => return Err(error),
        };
        Ok(Self(Arc::new(Shared {
            ring,
            proven,
            clock: clock.clone(),
            opened: Cache::new(CACHED),
            database_url: database_url.to_owned().into(),
            ledger: OnceCell::new(),
            generation: AtomicU64::new(0),
        })))
    }

    /// The user's data key, if it is remembered. Never waits.
    pub fn cached(&self, user: UserId) -> Option<Arc<DataKey>> {
        self.0.opened.get(&user)
    }

    /// The user's data key, made if there is none. Of two processes that make it at once both answer the one that was
    /// stored.
    ///
    /// # Errors
    /// [`KeysError::NoAccount`] when the user has no account (any more).
    pub async fn get_or_make(
        &self,
        conn: &mut PgConnection,
        user: UserId,
    ) -> Result<Arc<DataKey>, KeysError> {
        let found = self.get_or_make_many(conn, &[user]).await?.remove(&user);
        Ok(found.ok_or(KeysError::NoAccount)??)
    }

    /// [`Keys::get_or_make`] for many at once, in three statements at most; who has no account is left out. A key that
    /// does not open is never replaced: what it sealed would be lost.
    pub async fn get_or_make_many(
        &self,
        conn: &mut PgConnection,
        users: &[UserId],
    ) -> Result<Found, KeysError> {
        let mut found = self.find_many(conn, users).await?;
        let without: Vec<UserId> = users.iter().filter(|user| !found.contains_key(*user)).copied().collect();
        if without.is_empty() {
            return Ok(found);
        }
        let made: Result<Vec<WrappedKey>, KeysError> = without.iter().map(|user| self.make(*user)).collect();
        wrapped_keys::insert(conn, made?, self.0.clock.now()).await?;
        // What is stored counts: another process may have been quicker.
        found.extend(self.find_many(conn, &without).await?);
        Ok(found)
    }

    fn make(&self, user: UserId) -> Result<WrappedKey, KeysError> {
        let (key, sealed) = self.0.ring.new_data_key(user.get(), DekId::first(), &OsEntropy)?;
        Ok(WrappedKey {
            user,
            dek_id: key.id().as_str().to_owned(),
            kid: sealed.kid().as_str().to_owned(),
            sealed: sealed.to_json(),
        })
    }

    /// The user's data key, if there is one.
    pub async fn find(
        &self,
        conn: &mut PgConnection,
        user: UserId,
    ) -> Result<Option<Arc<DataKey>>, KeysError> {
        Ok(self.find_many(conn, &[user]).await?.remove(&user).transpose()?)
    }

    /// The data keys of these users; a user without one is left out. Makes none.
    pub async fn find_many(&self, conn: &mut PgConnection, users: &[UserId]) -> Result<Found, KeysError> {
        let mut found = Found::with_capacity(users.len());
        let mut unknown = Vec::new();
        for &user in users {
            match self.cached(user) {
                Some(key) => drop(found.insert(user, Ok(key))),
                None => unknown.push(user),
            }
        }
        if unknown.is_empty() {
            return Ok(found);
        }
        self.prove(conn).await?;
        let generation = self.0.generation.load(Ordering::Acquire);
        for wrapped in wrapped_keys::of_users(conn, &unknown).await? {
            let opened = open(&self.0.ring, &wrapped).map(Arc::new);
            if let Ok(key) = &opened {
                self.remember(wrapped.user, key, generation);
            }
            found.insert(wrapped.user, opened);
        }
        Ok(found)
    }

    /// All data keys of the user that are stored, opened past the cache, which may still hold one that was destroyed.
    /// Nothing of it is remembered.
    ///
    /// # Errors
    /// The outer one when nothing can be read; the inner one when a key does not open.
    pub async fn stored(
        &self,
        conn: &mut PgConnection,
        user: UserId,
    ) -> Result<Vec<Result<DataKey, DataKeyError>>, KeysError> {
        self.prove(conn).await?;
        let stored = wrapped_keys::of_users(conn, &[user]).await?;
        Ok(stored.iter().map(|wrapped| open(&self.0.ring, wrapped)).collect())
    }

    /// Forgets the data keys of these users: they may be destroyed.
    pub fn forget(&self, users: &[UserId]) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        for user in users {
            self.0.opened.remove(user);
        }
    }

    /// Forgets all data keys, when news of destroyed ones may have been missed.
    pub fn forget_all(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.0.opened.clear();
    }

    /// The root keys, for the keys that they derive.
    pub fn ring(&self) -> &KeyRing {
        &self.0.ring
    }

    /// When the database first saw the current root key, if that is known: it is once the database has answered.
    pub fn current_since(&self) -> Option<DateTime<Utc>> {
        self.0.proven.get().copied()
    }

    /// Holds the root keys against the database, unless that was done.
    pub async fn prove(&self, conn: &mut PgConnection) -> Result<(), KeysError> {
        if self.0.proven.get().is_none() {
            let seen = start::prove(conn, &self.0.ring, self.0.clock.now()).await?;
            // Another request may have been quicker, with the same.
            let _ = self.0.proven.set(seen);
        }
        Ok(())
    }

    fn remember(&self, user: UserId, key: &Arc<DataKey>, generation: u64) {
        self.0.opened.insert(user, Arc::clone(key));
        // Checked after the insertion: an invalidation in between may have come too early to remove it.
        if self.0.generation.load(Ordering::Acquire) != generation {
            self.0.opened.remove(&user);
        }
    }
}
