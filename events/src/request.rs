//! Requests as a proxy names them, so that one which is asked about several times counts once.

use chrono::{DateTime, TimeDelta, Utc};
use ledger::{UserId, derived_id};
use uuid::Uuid;

/// Two calls of one request that are less apart are one call.
pub const SAME_REQUEST: TimeDelta = TimeDelta::seconds(60);

/// Time of the log for which a request's last call is remembered: longer than it takes until another call of it can be
/// in the log, with all retries of its frame.
pub const REQUESTS_KEPT: TimeDelta = TimeDelta::minutes(10);

/// The last call of a request that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCall {
    /// Its admission instant, by the clock of the process that admitted it.
    pub created_at: DateTime<Utc>,
    /// Time at which the log stored its frame.
    pub stored_at: DateTime<Utc>,
}

impl LastCall {
    /// Whether a later call in the log of the same hash is this one. It depends on these two and on nothing else, so
    /// that it is the same however the log is read; what is forgotten is the same to nobody.
    pub fn is_same(&self, later: &Self) -> bool {
        !self.is_forgotten(later.stored_at) && is_same_request(self.created_at, later.created_at)
    }

    /// Whether nobody asks for it any more when the log is at this time.
    pub fn is_forgotten(&self, log_time: DateTime<Utc>) -> bool {
        log_time - self.stored_at >= REQUESTS_KEPT
    }
}

/// Hash of a request: of its user, method and URI, of the id that the proxy gave it, and of how many calls of it were
/// used up by repetition before this one. `UUIDv8` of SHA-256; nothing of what it is made from is kept.
pub fn request_hash(user: UserId, method: &str, uri: &str, id: &[u8], used_up: u32) -> Uuid {
    let mut buffer = Uuid::encode_buffer();
    let user = user.get().hyphenated().encode_lower(&mut buffer);
    derived_id(&[user.as_bytes(), method.as_bytes(), uri.as_bytes(), id, &used_up.to_be_bytes()])
}

/// Whether calls of the same hash at these times are one call. Clocks may step back, so either may be the first.
pub fn is_same_request(one: DateTime<Utc>, other: DateTime<Utc>) -> bool {
    (one - other).abs() < SAME_REQUEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_request_tells_it_from_others() {
        let (user, other) = (UserId::new(Uuid::from_u128(1)), UserId::new(Uuid::from_u128(2)));
        let hash = request_hash(user, "GET", "/a?b", b"id", 0);
        assert_eq!(hash.get_version_num(), 8);
        assert_eq!(request_hash(user, "GET", "/a?b", b"id", 0), hash, "for ever the same");
        let others = [
            request_hash(other, "GET", "/a?b", b"id", 0),
            request_hash(user, "POST", "/a?b", b"id", 0),
            request_hash(user, "GET", "/a", b"id", 0),
            request_hash(user, "GET", "/a?", b"bid", 0),
            request_hash(user, "GET/", "a?b", b"id", 0),
            request_hash(user, "GET", "/a?b", b"ID", 0),
            request_hash(user, "GET", "/a?b", b"id", 1),
        ];
        assert!(!others.contains(&hash));
    }

    #[test]
    fn a_call_is_forgotten_by_the_log_s_time() {
        let at = DateTime::<Utc>::UNIX_EPOCH;
        let minute = TimeDelta::minutes(1);
        let call =
            |created, stored| LastCall { created_at: at + minute * created, stored_at: at + minute * stored };
        for (first, later, same) in [
            (call(0, 0), call(0, 9), true),
            (call(0, 0), call(0, 10), false),
            // What a clock says that is wrong forgets nothing, and keeps nothing.
            (call(120, 0), call(120, 9), true),
            (call(120, 0), call(120, 10), false),
            (call(120, 0), call(0, 0), false),
            // A call that is applied late.
            (call(0, 30), call(0, 0), true),
        ] {
            assert_eq!(first.is_same(&later), same, "{first:?} {later:?}");
        }
    }

    #[test]
    fn a_request_is_the_same_for_less_than_a_minute() {
        let at = DateTime::<Utc>::UNIX_EPOCH;
        for (micros, same) in
            [(0, true), (59_999_999, true), (60_000_000, false), (-59_999_999, true), (-60_000_000, false)]
        {
            assert_eq!(is_same_request(at, at + TimeDelta::microseconds(micros)), same, "{micros}");
        }
    }
}
