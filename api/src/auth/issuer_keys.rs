//! Keys of the identity provider that signs users' tokens, read from `JWT_JWKS_URL` when they are needed.
//!
//! A key counts for as long as the last document had it. A document is read anew every ten minutes, and for a key that
//! it does not name, but not twice in a minute: whoever invents names of keys cannot have us flood the provider. While
//! the provider is away, the last document counts for a day.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::Algorithm;
use ledger::Clock;
use outbound::documents::{DocumentError, DocumentUrl, Documents};
use parking_lot::Mutex;

use super::key_set::{KeySet, KeySetError};

/// Age at which a document is read anew.
const MAX_AGE: TimeDelta = TimeDelta::minutes(10);
/// Shortest time between two attempts.
const MIN_PAUSE: TimeDelta = TimeDelta::minutes(1);
/// Shortest time between two attempts while there is no document at all.
const MIN_PAUSE_WITHOUT: TimeDelta = TimeDelta::seconds(5);
/// Age at which a document counts no more.
const MAX_STALE: TimeDelta = TimeDelta::hours(24);

/// The keys of one provider. Cheap to clone.
#[derive(Clone)]
pub(super) struct IssuerKeys(Arc<Parts>);

struct Parts {
    documents: Documents,
    address: DocumentUrl,
    clock: Clock,
    known: Mutex<Known>,
    /// Held while the document is read: whoever needs it meanwhile waits for the same one.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    last: Option<Last>,
    tried_at: Option<DateTime<Utc>>,
    /// The last attempt brought nothing.
    is_away: bool,
    /// Number of documents read.
    edition: u64,
}

#[derive(Clone)]
struct Last {
    keys: Arc<KeySet>,
    read_at: DateTime<Utc>,
}

/// The document that verified a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edition(u64);

/// Answer to the question for a key.
pub(super) enum Found {
    /// This set has it.
    In(Arc<KeySet>, Edition),
    /// The provider has no such key.
    Nowhere,
    /// The provider does not answer, so that nobody knows.
    Away,
}

/// Reason why an attempt brought no document.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the identity provider's keys cannot be read")]
    Document(#[from] DocumentError),
    #[error("the identity provider's keys cannot be used")]
    Keys(#[from] KeySetError),
}

impl IssuerKeys {
    /// The keys at this address; none is read yet.
    pub(super) fn new(address: DocumentUrl, clock: Clock) -> Result<Self, DocumentError> {
        let (known, reading) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self(Arc::new(Parts { documents: Documents::new()?, address, clock, known, reading })))
    }

    /// Whether what this document verified is still verified by it, without asking anybody.
    pub(super) fn is_current(&self, edition: Edition) -> bool {
        let known = self.0.known.lock();
        known.edition == edition.0 && known.last.as_ref().is_some_and(|last| self.age(last.read_at) < MAX_AGE)
    }

    /// Looks for the key that verifies a token, in a new document if need be. One that is out of date counts while it
    /// is read anew: nobody waits for a provider that is away.
    pub(super) async fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Found {
        let found = self.found(kid, algorithm);
        if let Some((found, age)) = found {
            if age >= MAX_AGE && self.is_due() {
                tokio::spawn(self.clone().refresh());
            }
            return found;
        }
        // A task of its own: one who hangs up must not use up the minute's attempt for all. It panics with us alone.
        let _ = tokio::spawn(self.clone().refresh()).await;
        match self.found(kid, algorithm) {
            Some((found, _)) => found,
            None if self.0.known.lock().is_away => Found::Away,
            None => Found::Nowhere,
        }
    }

    /// The document that has the key, and its age.
    fn found(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<(Found, TimeDelta)> {
        let known = self.0.known.lock();
        let last = known.last.as_ref()?;
        let age = self.age(last.read_at);
        if age >= MAX_STALE || last.keys.find(kid, algorithm).is_none() {
            return None;
        }
        Some((Found::In(Arc::clone(&last.keys), Edition(known.edition)), age))
    }

    /// Reads the document, unless that was tried lately.
    async fn refresh(self) {
        let _reading = self.0.reading.lock().await;
        if !self.is_due() {
            return;
        }
        self.0.known.lock().tried_at = Some(self.0.clock.now());
        let read = self.read().await;
        let mut known = self.0.known.lock();
        known.is_away = read.is_err();
        match read {
            Ok(keys) => {
                known.edition += 1;
                known.last = Some(Last { keys: Arc::new(keys), read_at: self.0.clock.now() });
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                address = %self.0.address,
                "tokens of the identity provider are verified by the keys that are known"
            ),
        }
    }

    /// Whether it is time for another attempt.
    fn is_due(&self) -> bool {
        let known = self.0.known.lock();
        let pause = if known.last.is_some() { MIN_PAUSE } else { MIN_PAUSE_WITHOUT };
        known.tried_at.is_none_or(|tried_at| self.age(tried_at) >= pause)
    }

    async fn read(&self) -> Result<KeySet, ReadError> {
        let document = self.0.documents.read(&self.0.address).await?;
        Ok(KeySet::parse(&document)?)
    }

    /// Time since then; the longest there is where the clock was set back.
    fn age(&self, then: DateTime<Utc>) -> TimeDelta {
        let age = self.0.clock.now() - then;
        if age < TimeDelta::zero() { TimeDelta::MAX } else { age }
    }
}
