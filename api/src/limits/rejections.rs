//! Refused calls, gathered: one event for each user, meter and ten seconds, however many calls were refused.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use events::{Body, LimitRejected};
use ledger::{KeyId, Meter, UserId};

use super::ask::Policy;
use crate::facts::{Gather, Gathered};

/// Refusals that are not in the log yet. Those of more users than it holds are counted in the metrics only.
#[derive(Clone, Default)]
pub(super) struct Rejections(pub(super) Arc<Gathered<Rejected>>);

/// Calls of a user that a meter refused, or the budget of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Rejected {
    user: UserId,
    meter: Meter,
    key: Option<KeyId>,
    shadow: bool,
}

impl Rejections {
    /// Counts one refused call.
    pub(super) fn count(
        &self,
        user: UserId,
        policy: Policy,
        key: Option<KeyId>,
        shadow: bool,
        at: DateTime<Utc>,
    ) {
        let label = policy.as_str();
        let meter = match policy {
            Policy::Meter(meter) => meter,
            Policy::Key => Meter::Total,
        };
        metrics::counter!("ledger_limit_rejections_total", "meter" => label).increment(1);
        if !self.0.add(Rejected { user, meter, key, shadow }, at, |count| *count += 1) {
            metrics::counter!("ledger_limit_rejections_unrecorded_total", "meter" => label).increment(1);
        }
    }
}

impl Gather for Rejected {
    type Counts = u64;

    fn user(&self) -> UserId {
        self.user
    }

    fn merge(count: &mut u64, more: u64) {
        *count += more;
    }

    fn body(&self, window_start: DateTime<Utc>, count: &u64) -> Body<'static> {
        let Self { meter, key, shadow, .. } = *self;
        let key_id = key.map(KeyId::get);
        Body::LimitRejected(LimitRejected { meter, count: *count, window_start, shadow, key_id })
    }
}

#[cfg(test)]
mod tests {
    use ledger::IdSource;
    use uuid::Uuid;

    use super::*;
    use crate::facts::encode;

    #[test]
    fn a_million_refusals_are_few_windows() {
        let rejections = Rejections::default();
        let begin: DateTime<Utc> = "2026-11-30T23:58:19Z".parse().expect("a time");
        for second in 0..100 {
            for _ in 0..10_000 {
                let at = begin + chrono::Duration::seconds(second);
                let policy = Policy::Meter(Meter::Analyze);
                rejections.count(UserId::new(Uuid::from_u128(1)), policy, None, false, at);
            }
        }
        let windows = rejections.0.take(None);
        assert_eq!(windows.len(), 11);
        assert_eq!(windows.iter().map(|(_, count)| count).sum::<u64>(), 1_000_000);
        let ids = IdSource::default();
        let bytes = windows.iter().map(|(window, count)| encode(window, count, &ids, begin).0.len());
        let bytes: usize = bytes.sum();
        assert!(bytes <= 100 * 1024, "{bytes} bytes for a million refusals");
    }
}
