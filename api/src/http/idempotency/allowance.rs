//! What is kept of a principal's idempotency keys: so many keys and so many bytes of answers in a day.
//!
//! No plan limits these requests, and each leaves a row for a day. Beyond its allowance a user's new keys are refused;
//! those that are there are answered as before. The host's backends and operators call metered paths for many users, so
//! they are never refused: beyond their allowance a key is kept with its event's id and its request's hash, and without
//! an answer. Such a request is done again when it is sent again, and counts once by the ids of its events.
//!
//! Each instance counts in memory what it keeps itself: several keep as many times as much, and one that starts knows
//! nothing of the day before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::UserId;
use parking_lot::Mutex;
use quick_cache::sync::Cache;

use crate::http::gcra::Level;
use crate::http::problem::Problem;

/// Time over which an allowance is spread: that for which an answer is kept.
const PERIOD: Duration = Duration::from_hours(24);
/// Principals remembered at once. A forgotten one starts with a full allowance.
const PRINCIPALS: usize = 20_000;
/// Bytes that a key takes without its answer: the row, its index entries, the request's names.
const KEY_BYTES: u32 = 512;

/// Most keys, and bytes of their answers, that an instance keeps of a principal in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allowance {
    keys: u32,
    bytes: u32,
    /// Whether further keys are refused; if not, they are kept without their answers.
    is_strict: bool,
}

impl Allowance {
    /// Of a user, whoever that is.
    pub const USER: Self = Self::strict(10_000, 32 * 1024 * 1024);
    /// Of the host's backends and operators, who act for many.
    pub const TRUSTED: Self = Self::lenient(5_000_000, u32::MAX);

    /// So many keys with so many bytes; further keys are refused.
    pub const fn strict(keys: u32, bytes: u32) -> Self {
        Self { keys, bytes, is_strict: true }
    }

    /// So many keys with so many bytes; further keys are kept without their answers.
    pub const fn lenient(keys: u32, bytes: u32) -> Self {
        Self { keys, bytes, is_strict: false }
    }
}

/// Principal to whom keys belong: an account in one role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyOwner {
    /// The account.
    pub user: UserId,
    /// The role's name.
    pub role: &'static str,
    /// What is kept of it.
    pub allowance: Allowance,
}

/// How much of each allowance is used.
pub(super) struct Used(Cache<KeyOwner, Arc<Mutex<Levels>>>);

/// What is used of the allowances of keys and of bytes.
struct Levels {
    keys: Level,
    bytes: Level,
}

impl Levels {
    /// Time until nothing is used beyond the allowance.
    fn wait(&self, now: Instant) -> Duration {
        self.keys.wait(now, PERIOD).max(self.bytes.wait(now, PERIOD))
    }
}

impl Used {
    pub(super) fn new() -> Self {
        Self(Cache::new(PRINCIPALS))
    }

    /// 429 when `owner` may have no new key now.
    pub(super) fn check(&self, owner: &KeyOwner, now: Instant) -> Result<(), Problem> {
        let wait = if owner.allowance.is_strict { self.wait(owner, now) } else { Duration::ZERO };
        if wait.is_zero() {
            return Ok(());
        }
        let Allowance { keys, bytes, .. } = owner.allowance;
        let detail = format!(
            "In a day an instance keeps at most {keys} requests with an Idempotency-Key and {} MiB of their answers; \
             try again later, or without the header.",
            bytes / (1024 * 1024)
        );
        Err(Problem::rate_limited(detail, wait.as_secs() + 1))
    }

    /// Whether an answer of `owner` is kept now. Where new keys are refused instead, those that passed have theirs.
    pub(super) fn keeps_answer(&self, owner: &KeyOwner, now: Instant) -> bool {
        owner.allowance.is_strict || self.wait(owner, now).is_zero()
    }

    /// Counts a new key.
    pub(super) fn add_key(&self, owner: &KeyOwner, now: Instant) {
        let levels = self.levels(owner, now);
        let mut levels = levels.lock();
        levels.keys.add(now, PERIOD / owner.allowance.keys);
        levels.bytes.add(now, share(KEY_BYTES, owner.allowance.bytes));
    }

    /// Counts an answer of this length that is kept.
    pub(super) fn add_answer(&self, owner: &KeyOwner, bytes: usize, now: Instant) {
        let levels = self.levels(owner, now);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        levels.lock().bytes.add(now, share(bytes, owner.allowance.bytes));
    }

    fn wait(&self, owner: &KeyOwner, now: Instant) -> Duration {
        self.levels(owner, now).lock().wait(now)
    }

    fn levels(&self, owner: &KeyOwner, now: Instant) -> Arc<Mutex<Levels>> {
        let empty = Level::empty(now);
        let fresh =
            || Ok::<_, std::convert::Infallible>(Arc::new(Mutex::new(Levels { keys: empty, bytes: empty })));
        let Ok(levels) = self.0.get_or_insert_with(owner, fresh);
        levels
    }
}

/// The part of the period that `bytes` of an allowance are.
fn share(bytes: u32, allowance: u32) -> Duration {
    PERIOD.mul_f64(f64::from(bytes) / f64::from(allowance))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn owner(number: u128, role: &'static str, allowance: Allowance) -> KeyOwner {
        KeyOwner { user: UserId::new(Uuid::from_u128(number)), role, allowance }
    }

    #[test]
    fn keys_are_bounded_by_principal_and_role() {
        let used = Used::new();
        let start = Instant::now();
        let few = Allowance::strict(10, u32::MAX);
        let (one, as_admin, other) = (owner(1, "user", few), owner(1, "admin", few), owner(2, "user", few));
        let mut admitted = 0;
        while used.check(&one, start).is_ok() && admitted < 100 {
            used.add_key(&one, start);
            admitted += 1;
        }
        assert!((10..=11).contains(&admitted), "{admitted}");
        assert!(used.check(&as_admin, start).is_ok() && used.check(&other, start).is_ok());
        let refused = used.check(&one, start).unwrap_err();
        assert_eq!(refused.status(), 429);
        // A tenth of the day later there is room for a tenth.
        assert!(used.check(&one, start + PERIOD / 10).is_ok());
        used.add_key(&one, start + PERIOD / 10);
        assert!(used.check(&one, start + PERIOD / 10).is_err());
        assert!(used.check(&one, start + 2 * PERIOD).is_ok());
    }

    #[test]
    fn who_acts_for_many_is_never_refused_and_has_no_more_answers_kept() {
        let used = Used::new();
        let start = Instant::now();
        assert!([Allowance::TRUSTED, Allowance::USER].map(|of| of.is_strict) == [false, true]);
        let few = Allowance::lenient(10, u32::MAX);
        let backend = owner(1, "service", few);
        let mut kept = 0;
        for _ in 0..100 {
            assert!(used.check(&backend, start).is_ok());
            used.add_key(&backend, start);
            kept += usize::from(used.keeps_answer(&backend, start));
        }
        assert!((9..=11).contains(&kept), "{kept}");
        let ada = owner(1, "user", Allowance::strict(10, u32::MAX));
        (0..100).for_each(|_| used.add_key(&ada, start));
        assert!(used.keeps_answer(&ada, start), "it was admitted");
    }

    #[test]
    fn bytes_are_bounded_too() {
        let used = Used::new();
        let start = Instant::now();
        let ada = owner(1, "user", Allowance::USER);
        let answer = 512 * 1024;
        let mut kept = 0;
        while used.check(&ada, start).is_ok() && kept < 1_000 {
            used.add_key(&ada, start);
            used.add_answer(&ada, answer, start);
            kept += 1;
        }
        assert!((60..=65).contains(&kept), "{kept} answers of 512 KiB in 32 MiB");
        assert!(used.check(&ada, start + PERIOD / 32).is_ok());
    }
}
