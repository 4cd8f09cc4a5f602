//! Refused calls, gathered: one event for each user, meter and window, however many calls were refused.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use events::{Body, Event, LimitRejected};
use ledger::{Clock, IdSource, Meter, UserId};
use nats::{EncodedEvent, Publisher};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Length of a window in seconds. Months begin at a multiple of it.
const WINDOW_S: i64 = 10;
/// Windows kept at once. Refusals of more users are counted in the metrics only.
const MAX_WINDOWS: usize = 20_000;
/// Pause between two searches for windows that have ended.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Refusals that are not in the log yet.
pub(super) struct Rejections {
    windows: Mutex<HashMap<Window, u64>>,
}

/// Refusals that become one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Window {
    user: UserId,
    meter: Meter,
    shadow: bool,
    start: DateTime<Utc>,
}

impl Rejections {
    pub(super) fn new() -> Self {
        Self { windows: Mutex::new(HashMap::new()) }
    }

    /// Counts one refused call.
    pub(super) fn count(&self, user: UserId, meter: Meter, shadow: bool, at: DateTime<Utc>) {
        let label = meter.as_str();
        metrics::counter!("ledger_limit_rejections_total", "meter" => label).increment(1);
        let window = Window { user, meter, shadow, start: window_start(at) };
        let mut windows = self.windows.lock();
        if let Some(count) = windows.get_mut(&window) {
            *count += 1;
        } else if windows.len() < MAX_WINDOWS {
            windows.insert(window, 1);
        } else {
            metrics::counter!("ledger_limit_rejections_unrecorded_total", "meter" => label).increment(1);
        }
    }

    /// Takes what belongs to windows that have ended before `at`, or everything.
    fn take(&self, ended_before: Option<DateTime<Utc>>) -> Vec<(Window, u64)> {
        let mut windows = self.windows.lock();
        match ended_before {
            None => mem::take(&mut *windows).into_iter().collect(),
            Some(at) => {
                let current = window_start(at);
                windows.extract_if(|window, _| window.start != current).collect()
            }
        }
    }

    /// Puts back what the log did not take.
    fn put_back(&self, refused: Vec<(Window, u64)>) {
        let mut windows = self.windows.lock();
        for (window, count) in refused {
            *windows.entry(window).or_default() += count;
        }
    }

    /// Hands over to the log what is due. Never waits; what finds no room stays for the next time.
    fn flush(&self, publisher: &Publisher, clock: &Clock, ids: &IdSource, everything: bool) {
        let now = clock.now();
        let due = self.take((!everything).then_some(now));
        let refused = due
            .into_iter()
            .filter(|(window, count)| !publisher.offer(&encode(window, *count, ids, now)))
            .collect::<Vec<_>>();
        if !refused.is_empty() {
            self.put_back(refused);
        }
    }

    /// Flushes until `shutdown`, then everything once more.
    pub(super) async fn run(
        self: Arc<Self>,
        publisher: Publisher,
        clock: Clock,
        ids: IdSource,
        shutdown: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(FLUSH_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.flush(&publisher, &clock, &ids, false),
                () = shutdown.cancelled() => break,
            }
        }
        self.flush(&publisher, &clock, &ids, true);
    }
}

fn window_start(at: DateTime<Utc>) -> DateTime<Utc> {
    let seconds = at.timestamp();
    DateTime::from_timestamp(seconds - seconds.rem_euclid(WINDOW_S), 0).unwrap_or(at)
}

fn encode(window: &Window, count: u64, ids: &IdSource, now: DateTime<Utc>) -> EncodedEvent {
    let body = Body::LimitRejected(LimitRejected {
        meter: window.meter,
        count,
        window_start: window.start,
        shadow: window.shadow,
    });
    EncodedEvent::of(&Event::by_api(ids.event_id(), window.user, now, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn user(number: u128) -> UserId {
        UserId::new(Uuid::from_u128(number))
    }

    #[test]
    fn a_million_refusals_are_few_windows() {
        let rejections = Rejections::new();
        for second in 0..100 {
            for _ in 0..10_000 {
                rejections.count(
                    user(1),
                    Meter::Analyze,
                    false,
                    at("2026-11-30T23:58:19Z") + chrono::Duration::seconds(second),
                );
            }
        }
        let ended = rejections.take(Some(at("2026-11-30T23:59:59Z")));
        assert_eq!(ended.len(), 10);
        assert!(ended.iter().all(|(window, _)| window.start < at("2026-11-30T23:59:50Z")));
        let rest = rejections.take(None);
        assert_eq!(ended.iter().chain(&rest).map(|(_, count)| count).sum::<u64>(), 1_000_000);
        let ids = IdSource::default();
        let bytes: usize = ended
            .iter()
            .chain(&rest)
            .map(|(window, count)| encode(window, *count, &ids, at("2026-12-01T00:00:00Z")).0.len())
            .sum();
        assert!(bytes <= 100 * 1024, "{bytes} bytes for a million refusals");
    }

    #[test]
    fn the_map_is_bounded() {
        let rejections = Rejections::new();
        for number in 0..1_000_000 {
            rejections.count(user(number), Meter::Total, false, at("2026-11-15T00:00:00Z"));
        }
        assert_eq!(rejections.windows.lock().len(), MAX_WINDOWS);
    }

    #[test]
    fn what_the_log_did_not_take_is_kept() {
        let rejections = Rejections::new();
        rejections.count(user(1), Meter::Total, true, at("2026-11-15T00:00:03Z"));
        let taken = rejections.take(Some(at("2026-11-15T00:00:10Z")));
        assert_eq!(taken.len(), 1);
        rejections.count(user(1), Meter::Total, true, at("2026-11-15T00:00:04Z"));
        rejections.put_back(taken);
        let again = rejections.take(None);
        assert_eq!(again.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2]);
    }
}
