//! Changes of credentials: what this process remembers of API keys, sessions and accounts is forgotten when it changes.
//!
//! A change is announced, and counted in the database; who has missed an announcement sees by the number, half a second
//! later at most, that there was one. While nobody knows whether there was, for ten seconds, no key and no session is
//! taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::Clock;
use parking_lot::Mutex;
use sqlx::PgPool;
use store::identity::credential_changes::{self, Changed};
use tokio_util::sync::CancellationToken;

use super::accounts::Accounts;
use super::api_keys::KnownKeys;
use super::remembered::LOOK_WITHIN;
use super::sessions::KnownSessions;
use crate::http::problem::Chain;

/// Time between two looks at the number of changes.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Time for which what is remembered holds without such a look.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// A database that stays away is reported this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two writes of what was noted of uses.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two deletions of sessions that have ended.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// Changes of credentials, and what is remembered of these. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Parts>);

struct Parts {
    pool: PgPool,
    clock: Clock,
    accounts: Accounts,
    keys: KnownKeys,
    sessions: KnownSessions,
    seen: Mutex<Seen>,
}

/// Last look at the number of changes.
#[derive(Default)]
struct Seen {
    /// The number up to which changes are known; none before the first look.
    number: Option<i64>,
    /// Time at which the last look began that had an answer.
    at: Option<Instant>,
}

impl Seen {
    fn is_fresh(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| now.saturating_duration_since(at) <= FRESH_FOR)
    }

    /// Notes an announcement; answers what changed, if that is all that did since.
    fn heard(&mut self, payload: &str) -> Option<Changed> {
        let (number, changed) = Changed::parse(payload)?;
        let is_next = self.number.is_some_and(|seen| seen.checked_add(1) == Some(number));
        self.number = self.number.max(Some(number));
        is_next.then_some(changed)
    }
}

/// Nobody knows whether credentials have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stale;

impl Credentials {
    /// What is remembered of these. No key and no session is taken before the first look at their changes.
    pub fn new(
        pool: PgPool,
        clock: Clock,
        accounts: Accounts,
        keys: KnownKeys,
        sessions: KnownSessions,
    ) -> Self {
        Self(Arc::new(Parts { pool, clock, accounts, keys, sessions, seen: Mutex::default() }))
    }

    /// Accounts.
    pub(crate) fn accounts(&self) -> &Accounts {
        &self.0.accounts
    }

    /// API keys.
    pub(crate) fn keys(&self) -> &KnownKeys {
        &self.0.keys
    }

    /// Sessions.
    pub(crate) fn sessions(&self) -> &KnownSessions {
        &self.0.sessions
    }

    /// Tells whether what is remembered holds.
    pub(super) fn check_fresh(&self) -> Result<(), Stale> {
        if self.0.seen.lock().is_fresh(Instant::now()) { Ok(()) } else { Err(Stale) }
    }

    /// Forgets what has changed here. Others are told by the database.
    pub(crate) fn forget(&self, changed: Changed) {
        match changed {
            Changed::Key(key) => self.0.keys.forget(key),
            Changed::Session(session) => self.0.sessions.forget(session),
            Changed::User(user) => {
                self.0.accounts.forget(&[user]);
                self.0.keys.forget_user(user);
                self.0.sessions.forget_user(user);
            }
        }
    }

    /// Forgets everything, when announcements may have been missed.
    pub(crate) fn forget_all(&self) {
        self.0.accounts.forget_all();
        self.0.keys.forget_all();
        self.0.sessions.forget_all();
    }

    /// Forgets what an announcement names.
    pub(crate) fn heard(&self, payload: &str) {
        let mut seen = self.0.seen.lock();
        match seen.heard(payload) {
            Some(changed) => self.forget(changed),
            None => self.forget_all(),
        }
    }

    /// Looks whether credentials have changed.
    pub(crate) async fn look(&self) -> Result<(), store::Error> {
        let began = Instant::now();
        let number = store::within("looking at changes of credentials", LOOK_WITHIN, async {
            let mut conn = self.0.pool.acquire().await?;
            credential_changes::number(&mut conn).await
        })
        .await?;
        let mut seen = self.0.seen.lock();
        if seen.number != Some(number) {
            self.forget_all();
        }
        *seen = Seen { number: Some(number), at: Some(began) };
        Ok(())
    }

    /// Looks again and again whether credentials have changed, writes down their uses, and deletes sessions that have
    /// ended, until `shutdown`.
    pub(crate) async fn follow(self, shutdown: CancellationToken) {
        let work = async { tokio::join!(self.keep_looking(), self.keep_tidy()) };
        shutdown.run_until_cancelled(work).await;
        self.write_uses().await;
    }

    async fn keep_looking(&self) {
        let mut interval = tokio::time::interval(POLL_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reported: Option<Instant> = None;
        loop {
            interval.tick().await;
            if let Err(error) = self.look().await
                && reported.is_none_or(|at| at.elapsed() > REPORT_INTERVAL)
            {
                tracing::warn!(error = %Chain(&error), "cannot tell whether credentials have changed; trying again");
                reported = Some(Instant::now());
            }
        }
    }

    async fn keep_tidy(&self) {
        let mut interval = tokio::time::interval(WRITE_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = Instant::now();
        loop {
            interval.tick().await;
            self.write_uses().await;
            if swept.elapsed() >= SWEEP_INTERVAL {
                swept = Instant::now();
                if let Err(error) = self.0.sessions.sweep(self.0.clock.now()).await {
                    tracing::debug!(error = %Chain(&error), "ended sessions were not deleted; trying again");
                }
            }
        }
    }

    async fn write_uses(&self) {
        tokio::join!(self.0.keys.write_uses(), self.0.sessions.write_uses());
    }
}

#[cfg(test)]
mod tests {
    use ledger::KeyId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_change_that_follows_takes_one_thing_and_one_that_does_not_takes_all() {
        let changed = Changed::Key(KeyId::new(Uuid::from_u128(7)));
        let told = |number: i64| format!("{number} key {}", Uuid::from_u128(7));
        let mut seen = Seen::default();
        assert_eq!(seen.heard(&told(5)), None, "before the first look");
        let mut seen = Seen { number: Some(4), at: None };
        assert_eq!(seen.heard(&told(5)), Some(changed));
        assert_eq!(seen.heard(&told(7)), None, "the sixth was missed");
        assert_eq!(seen.heard(&told(8)), Some(changed));
        for payload in ["9 *", "", "9", "x y", "9 key", "9 other 00000000-0000-0000-0000-000000000007"] {
            assert_eq!(seen.heard(payload), None, "{payload:?}");
        }
        assert_eq!(seen.heard(&told(8)), None, "told before");
        assert_eq!(seen.number, Some(8));
    }

    #[test]
    fn what_was_not_looked_at_for_ten_seconds_is_stale() {
        let now = Instant::now();
        let seen = |at: Option<Instant>| Seen { number: Some(4), at };
        assert!(!seen(None).is_fresh(now), "before the first look");
        assert!(seen(Some(now)).is_fresh(now + FRESH_FOR));
        assert!(!seen(Some(now)).is_fresh(now + FRESH_FOR + Duration::from_millis(1)));
    }
}
