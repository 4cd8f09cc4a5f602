//! Calls of a long tail of users: a few call often, most hardly ever.

use chrono::{DateTime, TimeDelta, Utc};
use ledger::UserId;
use nats::Log;

use crate::calls;

use super::{USERS, first_month};

/// A source of calls over three months, in the order of their times.
pub(super) struct LongTail {
    start: DateTime<Utc>,
    every: TimeDelta,
    next: usize,
    random: Random,
}

impl LongTail {
    /// `calls` calls from the month before last until now.
    pub(super) fn new(calls: usize, now: DateTime<Utc>) -> Self {
        let start = first_month(now);
        let every = (now - start) / i32::try_from(calls).unwrap_or(i32::MAX);
        Self { start, every, next: 0, random: Random::default() }
    }

    /// Writes the next `calls` of them into the log.
    pub(super) async fn write(&mut self, log: &Log, calls: usize) -> anyhow::Result<()> {
        calls::write(log, calls, None, |_| self.call()).await
    }

    fn call(&mut self) -> (UserId, DateTime<Utc>) {
        let at = self.start + self.every * i32::try_from(self.next).unwrap_or(i32::MAX);
        self.next += 1;
        (calls::user(self.random.user(USERS)), at)
    }
}

/// The same numbers in every run (xorshift64*, Vigna 2016).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    /// A number from 0 to 1.
    pub(super) fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        #[expect(clippy::cast_precision_loss, reason = "53 bits")]
        let unit = bits as f64 / (1_u64 << 53) as f64;
        unit
    }

    /// One of so many users, drawn by the square of a uniform number.
    pub(super) fn user(&mut self, users: usize) -> usize {
        let unit = self.unit();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "below the number of users"
        )]
        let user = (unit * unit * users as f64) as usize;
        user.min(users - 1)
    }
}
