//! Opening the sealed address and user agent of a call.

use std::collections::HashMap;
use std::sync::Arc;

use events::{Personal, SealedJson};
use keys::{Keys, KeysError};
use ledger::UserId;
use sqlx::PgConnection;
use store::Position;
use vault::{DataKey, Sealed};

/// The data keys that a batch is opened with. Parsing does not wait: who is not known is asked for, and the batch is
/// parsed again.
#[derive(Clone, Default)]
pub struct KnownKeys {
    keys: Option<Keys>,
    /// What was looked up for this batch; None for a key that is destroyed, or never was.
    looked_up: HashMap<UserId, Option<Arc<DataKey>>>,
}

/// What is known of a user's data key.
pub(super) enum Known {
    Key(Arc<DataKey>),
    /// There is none: what it sealed is noise for ever.
    Destroyed,
    /// The database was not asked yet.
    NotYet,
}

impl KnownKeys {
    /// Those that this process remembers.
    pub fn of(keys: &Keys) -> Self {
        Self { keys: Some(keys.clone()), looked_up: HashMap::new() }
    }

    /// Asks the database for the keys of these users.
    pub async fn look_up(&mut self, conn: &mut PgConnection, users: &[UserId]) -> Result<(), KeysError> {
        let mut found = match &self.keys {
            Some(keys) => keys.find_many(conn, users).await?,
            None => HashMap::new(),
        };
        self.looked_up.extend(users.iter().map(|user| (*user, found.remove(user))));
        Ok(())
    }

    pub(super) fn key(&self, user: UserId) -> Known {
        match self.looked_up.get(&user) {
            Some(Some(key)) => return Known::Key(Arc::clone(key)),
            Some(None) => return Known::Destroyed,
            None => {}
        }
        self.keys.as_ref().and_then(|keys| keys.cached(user)).map_or(Known::NotYet, Known::Key)
    }
}

/// Hands the opened fields to `with`; none of them when they don't open. That is told and counted, and never costs the
/// call itself.
pub(super) fn open<T>(
    key: &DataKey,
    event_id: &str,
    sealed: &SealedJson<'_>,
    position: Position,
    with: impl FnOnce(Personal<'_>) -> T,
) -> T {
    let opened = Sealed::from_json(sealed.as_str()).and_then(|sealed| key.open_personal(event_id, &sealed));
    let read = opened.as_ref().ok().and_then(|json| serde_json::from_slice(json).ok());
    if read.is_none() {
        metrics::counter!("ledger_personal_unreadable_total").increment(1);
        tracing::error!(
            user_id = %key.user(), seq = position.seq, idx = position.idx,
            "a call's address and user agent do not open under its user's key; they are left out"
        );
    }
    with(read.unwrap_or_default())
}
