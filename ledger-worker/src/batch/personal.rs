//! Data keys of the users of a batch, and opening of the personal fields that are sealed under them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use data_keys::{Keys, KeysError};
use events::{Personal, SealedJson};
use ledger::UserId;
use sqlx::PgConnection;
use store::Position;
use vault::{DataKey, DataKeyError, Sealed};

/// The data keys that a batch is opened with. Parsing does not wait: who is not known is asked for, and the batch is
/// parsed again.
#[derive(Clone, Default)]
pub struct KnownDataKeys {
    keys: Option<Keys>,
    /// Data keys that were looked up for this batch.
    looked_up: HashMap<UserId, Known>,
}

/// Knowledge of a user's data key.
#[derive(Clone)]
pub(super) enum Known {
    Key(Arc<DataKey>),
    /// There is none: what it sealed is noise for ever.
    Destroyed,
    /// The stored one is not what was sealed for this user; no configuration would open it.
    Damaged,
    /// The database was not asked yet.
    NotYet,
}

impl KnownDataKeys {
    /// The data keys that this process remembers.
    pub fn of(keys: &Keys) -> Self {
        Self { keys: Some(keys.clone()), looked_up: HashMap::new() }
    }

    /// Asks the database for the data keys of these users.
    ///
    /// # Errors
    /// Also when a root key is not configured: what is left out for want of it would be lost.
    pub async fn look_up(&mut self, conn: &mut PgConnection, users: &[UserId]) -> Result<(), KeysError> {
        let mut found = match &self.keys {
            Some(keys) => keys.find_many(conn, users).await?,
            None => HashMap::new(),
        };
        for &user in users {
            let known = match found.remove(&user) {
                None => Known::Destroyed,
                Some(Ok(key)) => Known::Key(key),
                Some(Err(error @ DataKeyError::UnknownKey { .. })) => return Err(error.into()),
                Some(Err(DataKeyError::Open(_))) => Known::Damaged,
            };
            self.looked_up.insert(user, known);
        }
        Ok(())
    }

    pub(super) fn data_key(&self, user: UserId) -> Known {
        if let Some(known) = self.looked_up.get(&user) {
            return known.clone();
        }
        self.keys.as_ref().and_then(|keys| keys.cached(user)).map_or(Known::NotYet, Known::Key)
    }
}

/// Hands the opened fields to `with`; none when they do not open.
pub(super) fn open<T>(
    key: &DataKey,
    event_id: &str,
    sealed: &SealedJson<'_>,
    with: impl FnOnce(Option<Personal<'_>>) -> T,
) -> T {
    let opened = Sealed::from_json(sealed.as_str()).and_then(|sealed| key.open_personal(event_id, &sealed));
    with(opened.as_ref().ok().and_then(|json| serde_json::from_slice(json).ok()))
}

/// Calls whose sealed fields do not open although their user has a key. They are left out, which never costs the call
/// itself.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    calls: u64,
    first: Option<(UserId, Position)>,
    users: BTreeSet<UserId>,
}

impl Unreadable {
    /// One more, behind all that were added before.
    pub(super) fn add(&mut self, user: UserId, position: Position) {
        self.calls += 1;
        self.first.get_or_insert((user, position));
        self.users.insert(user);
    }

    /// Counts them, and tells of all in one line: a busy user's damaged key must not drown what else is told.
    pub(super) fn report(&self) {
        let Some((user_id, position)) = self.first else { return };
        metrics::counter!("ledger_personal_unreadable_total").increment(self.calls);
        tracing::error!(
            calls = self.calls, users = self.users.len(), %user_id, seq = position.seq, idx = position.idx,
            "addresses and user agents do not open under their users' keys and are left out; the first is named"
        );
    }
}
