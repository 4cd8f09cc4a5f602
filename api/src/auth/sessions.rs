//! Sessions of this process: found by the hashes of their cookies' secrets, remembered, forgotten when they change.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use credentials::Hash;
use ledger::UserId;
use sqlx::{PgConnection, PgPool};
use store::identity::sessions::{self, Found};
use uuid::Uuid;

use super::accounts::AccountsError;
use super::remembered::{Known, LOOK_WITHIN, Remembered};
use super::token::Reason;

/// Time that somebody has to show the second factor.
const PENDING_FOR: TimeDelta = TimeDelta::minutes(15);
/// Ended sessions that are deleted at a time.
const SWEPT: u32 = 1_000;

/// Sessions. Cheap to clone.
#[derive(Clone)]
pub struct KnownSessions(Arc<Parts>);

struct Parts {
    pool: PgPool,
    lifetime: SessionLifetime,
    remembered: Remembered<Uuid, Found>,
}

/// A remembered session.
pub(super) type KnownSession = Known<Found>;

/// Time for which a session lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLifetime {
    /// `SESSION_IDLE`: it ends when it is not used for so long, give or take a minute.
    pub idle: Duration,
    /// `SESSION_MAX`: it ends so long after the sign-in.
    pub max: Duration,
}

impl SessionLifetime {
    /// End of a session that begins now.
    pub(crate) fn end(self, now: DateTime<Utc>) -> DateTime<Utc> {
        TimeDelta::from_std(self.max)
            .ok()
            .and_then(|max| now.checked_add_signed(max))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Time since which a session must have been used.
    pub(crate) fn idle_since(self, now: DateTime<Utc>) -> DateTime<Utc> {
        TimeDelta::from_std(self.idle)
            .ok()
            .and_then(|idle| now.checked_sub_signed(idle))
            .unwrap_or(DateTime::<Utc>::MIN_UTC)
    }
}

impl KnownSessions {
    /// Sessions that last so long, looked up through `pool`.
    pub fn new(pool: PgPool, lifetime: SessionLifetime) -> Self {
        Self(Arc::new(Parts { remembered: Remembered::new(pool.clone()), pool, lifetime }))
    }

    /// Time for which a session lasts.
    pub(crate) fn lifetime(&self) -> SessionLifetime {
        self.0.lifetime
    }

    /// The session, if it is remembered and has not ended. Never waits.
    pub(super) fn cached(&self, hash: &Hash, now: DateTime<Utc>) -> Option<Arc<KnownSession>> {
        let known = self.0.remembered.cached(hash)?;
        if self.valid_at(&known, now).is_ok() {
            return Some(known);
        }
        // Another instance may know of a later use.
        self.0.remembered.forget_hash(hash);
        None
    }

    /// The session, if there is one.
    pub(super) async fn find(&self, hash: &Hash) -> Result<Option<Arc<KnownSession>>, AccountsError> {
        let look = async |conn: &mut PgConnection| {
            let found = sessions::find(conn, hash).await?;
            Ok(found.map(|found| {
                let used = found.last_used_at;
                Known::new(found, Some(used))
            }))
        };
        Ok(self.0.remembered.find(hash, "looking a session up", look).await?)
    }

    /// Tells whether the session has not ended at `now`.
    pub(super) fn valid_at(&self, known: &KnownSession, now: DateTime<Utc>) -> Result<(), Reason> {
        let idle_since_ms = self.0.lifetime.idle_since(now).timestamp_millis();
        let found = &known.found;
        let is_over = found.ends_at <= now
            || known.used_ms() <= idle_since_ms
            || (found.is_pending && found.proven_at + PENDING_FOR <= now);
        if is_over { Err(Reason::Expired) } else { Ok(()) }
    }

    /// Notes that the session is used now. Never waits.
    pub(super) fn note_use(&self, known: &KnownSession, now: DateTime<Utc>) {
        self.0.remembered.note_use(known.found.id, known, now);
    }

    /// Forgets a session that has changed.
    pub(crate) fn forget(&self, session: Uuid) {
        self.0.remembered.forget(|found| found.id == session);
    }

    /// Forgets a user's sessions.
    pub(crate) fn forget_user(&self, user: UserId) {
        self.0.remembered.forget(|found| found.user == user);
    }

    /// Forgets all sessions, when announcements may have been missed.
    pub(super) fn forget_all(&self) {
        self.0.remembered.forget_all();
    }

    /// Writes down the uses that were noted.
    pub(super) async fn write_uses(&self) {
        let write = async |conn: &mut PgConnection, uses: &[_]| sessions::used(conn, uses).await;
        self.0.remembered.write_uses("writing uses of sessions down", write).await;
    }

    /// Deletes sessions that have ended, as many as a step has.
    pub(super) async fn sweep(&self, now: DateTime<Utc>) -> Result<(), store::Error> {
        store::within("deleting ended sessions", LOOK_WITHIN, async {
            let mut conn = self.0.pool.acquire().await?;
            sessions::delete_ended(&mut conn, now, SWEPT).await.map(|_| ())
        })
        .await
    }
}
