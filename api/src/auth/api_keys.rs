//! API keys of this process: found by their hashes, remembered, forgotten when they change.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use credentials::{ApiKey, Environment, Hash};
use ledger::{KeyId, UserId};
use sqlx::{PgConnection, PgPool};
use store::identity::api_keys::{self, Found};

use super::accounts::AccountsError;
use super::remembered::{Known, Remembered};
use super::token::Reason;

/// API keys. Cheap to clone.
#[derive(Clone)]
pub struct KnownKeys(Arc<Parts>);

struct Parts {
    environment: Environment,
    remembered: Remembered<KeyId, Found>,
}

/// A remembered key.
pub(super) type KnownKey = Known<Found>;

impl KnownKeys {
    /// Keys of these surroundings, looked up through `pool`.
    pub fn new(pool: PgPool, environment: Environment) -> Self {
        Self(Arc::new(Parts { environment, remembered: Remembered::new(pool) }))
    }

    /// The hash of a key of these surroundings. Nothing is looked up.
    pub(super) fn hash(&self, text: &str) -> Result<Hash, Reason> {
        ApiKey::parse(text, &self.0.environment).map(|key| key.hash()).map_err(Reason::from)
    }

    /// The key, if it is remembered. Never waits.
    pub(super) fn cached(&self, hash: &Hash) -> Option<Arc<KnownKey>> {
        self.0.remembered.cached(hash)
    }

    /// The key, if there is one that is not revoked.
    pub(super) async fn find(&self, hash: &Hash) -> Result<Option<Arc<KnownKey>>, AccountsError> {
        let look = async |conn: &mut PgConnection| {
            Ok(api_keys::find(conn, hash).await?.map(|found| Known::new(found, None)))
        };
        Ok(self.0.remembered.find(hash, "looking an API key up", look).await?)
    }

    /// Notes that the key is used now. Never waits.
    pub(super) fn note_use(&self, known: &KnownKey, now: DateTime<Utc>) {
        self.0.remembered.note_use(known.found.id, known, now);
    }

    /// Forgets a key that has changed.
    pub(crate) fn forget(&self, key: KeyId) {
        self.0.remembered.forget(|found| found.id == key);
    }

    /// Forgets a user's keys.
    pub(super) fn forget_user(&self, user: UserId) {
        self.0.remembered.forget(|found| found.user == user);
    }

    /// Forgets all keys, when announcements may have been missed.
    pub(super) fn forget_all(&self) {
        self.0.remembered.forget_all();
    }

    /// Writes down the uses that were noted.
    pub(super) async fn write_uses(&self) {
        let write = async |conn: &mut PgConnection, uses: &[_]| api_keys::used(conn, uses).await;
        self.0.remembered.write_uses("writing uses of API keys down", write).await;
    }
}

/// Tells whether the key is valid at `now`, from this address.
pub(super) fn valid_at(found: &Found, now: DateTime<Utc>, address: IpAddr) -> Result<(), Reason> {
    let is_over = |end: &Option<DateTime<Utc>>| end.is_some_and(|end| end <= now);
    if is_over(&found.terms.expires_at) || is_over(&found.secret_ends_at) {
        Err(Reason::Expired)
    } else if !found.terms.networks.allow(address) {
        Err(Reason::Network)
    } else {
        Ok(())
    }
}
