//! Sealing what is known of the person behind a call, before it goes into the log.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use events::{Personal, SealedJson};
use keys::{Found, Keys, KeysError};
use ledger::UserId;
use sqlx::PgPool;
use vault::{DataKey, DataKeyError, OsEntropy};

use crate::http::problem::{Code, FieldError, Problem};

/// Users' data keys, and the database that they come from. Cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    keys: Keys,
    pool: PgPool,
}

impl Sealer {
    /// With the keys of this process.
    pub fn new(keys: Keys, pool: PgPool) -> Self {
        Self { keys, pool }
    }

    /// The user's data key, if it is remembered. Never waits.
    pub fn cached(&self, user: UserId) -> Option<Arc<DataKey>> {
        self.keys.cached(user)
    }

    /// The user's data key, made at the user's first call. Waits for the database only at the first one in a while.
    pub(crate) async fn key(&self, user: UserId) -> Result<Arc<DataKey>, Problem> {
        if let Some(key) = self.cached(user) {
            return Ok(key);
        }
        let found = self.keys_of(&[user]).await?.remove(&user).ok_or(KeysError::NoAccount)?;
        Ok(found.map_err(KeysError::from)?)
    }

    /// The data keys of all these users who have an account, or why one does not open.
    pub(crate) async fn keys_of(&self, users: &[UserId]) -> Result<Found, Problem> {
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        Ok(self.keys.get_or_make_many(&mut conn, users).await?)
    }
}

/// Seals the fields for the event of this id. None when nothing is known.
pub(crate) fn seal(
    key: &DataKey,
    event_id: &str,
    personal: &Personal<'_>,
) -> Result<Option<SealedJson<'static>>, Problem> {
    if personal.is_empty() {
        return Ok(None);
    }
    let sealed = key
        .seal_personal(event_id, &personal.to_json(), &OsEntropy)
        .map_err(|error| Problem::internal(&error))?;
    SealedJson::new(sealed.to_json()).map(Some).map_err(|error| Problem::internal(&error))
}

/// What is said of an item whose user's data key does not open: the same codes as of a request that is refused for it.
pub(crate) fn item_error(error: &DataKeyError) -> FieldError {
    match error {
        DataKeyError::UnknownKey { .. } => {
            FieldError::at("/subject", "encryption_key_missing", error.to_string())
        }
        DataKeyError::Open(_) => FieldError::at(
            "/subject",
            "internal",
            "the user's data key does not open; a fault of this service",
        ),
    }
}

impl From<KeysError> for Problem {
    fn from(error: KeysError) -> Self {
        if let Some(kid) = error.missing_key() {
            let detail = format!("The encryption key {kid} is not configured.");
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::EncryptionKeyMissing, detail)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("60"));
        }
        match error {
            KeysError::Store(error) => error.into(),
            // The account went while the request was under way.
            KeysError::NoAccount => Self::unauthorized(),
            other => Self::internal(&other),
        }
    }
}
