//! Sealing what is known of the person behind a call, before it goes into the log.

use std::sync::Arc;

use data_keys::{Found, Keys, KeysError};
use events::{NotSealed, Personal, SealedJson};
use ledger::UserId;
use sqlx::PgPool;
use vault::{DataKey, EntropyError, OsEntropy};

/// Reason why something is not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The user's data key cannot be had.
    #[error(transparent)]
    Key(#[from] KeysError),
    /// There are no random bytes.
    #[error("nothing can be sealed")]
    Entropy(#[from] EntropyError),
    /// The sealed form is not one that an event holds.
    #[error("the sealed form is not one that an event holds")]
    Form(#[from] NotSealed),
}

/// Users' data keys, and the database that they come from. Cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    data_keys: Keys,
    pool: PgPool,
}

impl Sealer {
    /// Seals under the data keys that this process knows.
    pub fn new(data_keys: Keys, pool: PgPool) -> Self {
        Self { data_keys, pool }
    }

    /// The user's data key, if it is remembered. Never waits.
    pub fn cached(&self, user: UserId) -> Option<Arc<DataKey>> {
        self.data_keys.cached(user)
    }

    /// The user's data key, made at the user's first call. Waits for the database only at the first one in a while.
    pub(crate) async fn data_key(&self, user: UserId) -> Result<Arc<DataKey>, KeysError> {
        if let Some(key) = self.cached(user) {
            return Ok(key);
        }
        let found = self.data_keys_of(&[user]).await?.remove(&user).ok_or(KeysError::NoAccount)?;
        found.map_err(KeysError::from)
    }

    /// The data keys of all these users who have an account, or why one does not open.
    pub(crate) async fn data_keys_of(&self, users: &[UserId]) -> Result<Found, KeysError> {
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        self.data_keys.get_or_make_many(&mut conn, users).await
    }
}

/// Seals the fields for the event of this id. None when nothing is known.
pub(crate) fn seal(
    key: &DataKey,
    event_id: &str,
    personal: &Personal<'_>,
) -> Result<Option<SealedJson<'static>>, SealError> {
    if personal.is_empty() {
        return Ok(None);
    }
    let sealed = key.seal_personal(event_id, &personal.to_json(), &OsEntropy)?;
    Ok(Some(SealedJson::new(sealed.to_compact_json())?))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use events::{ApiCalled, Body, Event, encode};
    use ledger::Category;
    use ledger::ids::event_id_at;
    use uuid::Uuid;
    use vault::{DekId, KeyRing, RootKey};

    use super::*;

    /// An endpoint of 16 bytes, a user agent of 60, an IPv4 address: what a year of calls takes on disk follows.
    #[test]
    fn a_call_takes_so_many_bytes_of_the_log() {
        let ring = KeyRing::new("k1".parse().unwrap(), &RootKey::parse(&"a".repeat(64)).unwrap());
        let user = Uuid::from_u128(7);
        let (key, _) = ring.new_data_key(user, DekId::first(), &OsEntropy).unwrap();
        let at = DateTime::from_timestamp(1_794_000_000, 123_456_000).unwrap();
        let id = event_id_at(at);
        let agent = "x".repeat(60);
        let personal = Personal::of_client("203.0.113.177".parse().ok(), Some(agent.as_str().into()));
        let mut call = ApiCalled::new("/api/analyze/abc", Category::Analyze);
        call.method = Some("POST".into());
        call.personal = seal(&key, &id.to_string(), &personal).unwrap();
        let mut json = Vec::new();
        encode(&Event::by_api(id, user.into(), at, Body::ApiCalled(call)), &mut json);
        assert_eq!(json.len(), 529);
    }
}
