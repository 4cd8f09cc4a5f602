//! What happens too often for an event each, gathered: one event for each user, kind and ten seconds.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use events::{Body, Event};
use ledger::{Clock, IdSource, UserId};
use nats::{EncodedEvent, Publisher};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Length of a window in seconds. Months begin at a multiple of it.
const WINDOW_S: i64 = 10;
/// Windows kept at once.
const MAX_WINDOWS: usize = 20_000;
/// Pause between two searches for windows that have ended.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// What is gathered into one event: a user's, of one kind.
pub(crate) trait Gather: Copy + Eq + Hash + Send + 'static {
    /// What is known of a window.
    type Counts: Default + Send + 'static;

    /// The user whose event it becomes.
    fn user(&self) -> UserId;

    /// Adds what another window of the same time has.
    fn merge(counts: &mut Self::Counts, more: Self::Counts);

    /// The event's body.
    fn body(&self, window_start: DateTime<Utc>, counts: &Self::Counts) -> Body<'static>;
}

/// What is not in the log yet.
pub(crate) struct Gathered<G: Gather> {
    windows: Mutex<HashMap<Window<G>, G::Counts>>,
}

type Window<G> = (G, DateTime<Utc>);

impl<G: Gather> Default for Gathered<G> {
    fn default() -> Self {
        Self { windows: Mutex::new(HashMap::new()) }
    }
}

impl<G: Gather> Gathered<G> {
    /// Adds to the window of this time; answers `false`, having added nothing, when there is no room for another.
    pub(crate) fn add(&self, gather: G, at: DateTime<Utc>, with: impl FnOnce(&mut G::Counts)) -> bool {
        let window = (gather, window_start(at));
        let mut windows = self.windows.lock();
        if let Some(counts) = windows.get_mut(&window) {
            with(counts);
        } else if windows.len() < MAX_WINDOWS {
            with(windows.entry(window).or_default());
        } else {
            return false;
        }
        true
    }

    /// Takes what belongs to windows that have ended before `at`, or everything.
    pub(crate) fn take(&self, ended_before: Option<DateTime<Utc>>) -> Vec<(Window<G>, G::Counts)> {
        let mut windows = self.windows.lock();
        match ended_before {
            None => mem::take(&mut *windows).into_iter().collect(),
            Some(at) => {
                let current = window_start(at);
                windows.extract_if(|(_, start), _| *start != current).collect()
            }
        }
    }

    /// Puts back what the log did not take, as far as there is room.
    fn put_back(&self, refused: Vec<(Window<G>, G::Counts)>) {
        let mut windows = self.windows.lock();
        for (window, counts) in refused {
            if windows.len() < MAX_WINDOWS || windows.contains_key(&window) {
                G::merge(windows.entry(window).or_default(), counts);
            } else {
                metrics::counter!("ledger_gathered_lost_total").increment(1);
            }
        }
    }

    /// Hands over to the log what is due. Never waits; what finds no room stays for the next time.
    fn flush(&self, publisher: &Publisher, clock: &Clock, ids: &IdSource, everything: bool) {
        let now = clock.now();
        let mut due = self.take((!everything).then_some(now));
        // Of a log that takes none no more is asked.
        let taken = due
            .iter()
            .take_while(|(window, counts)| publisher.offer(&encode(window, counts, ids, now)))
            .count();
        if taken < due.len() {
            self.put_back(due.split_off(taken));
        }
    }

    /// Flushes until `shutdown`, then everything once more.
    pub(crate) async fn run(
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

/// The event of a window, recorded at `now`.
pub(crate) fn encode<G: Gather>(
    (gather, start): &Window<G>,
    counts: &G::Counts,
    ids: &IdSource,
    now: DateTime<Utc>,
) -> EncodedEvent {
    EncodedEvent::of(&Event::by_api(ids.event_id(), gather.user(), now, gather.body(*start, counts)))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// The user's calls of something.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct Calls(UserId);

    impl Gather for Calls {
        type Counts = u64;

        fn user(&self) -> UserId {
            self.0
        }

        fn merge(counts: &mut u64, more: u64) {
            *counts += more;
        }

        fn body(&self, _: DateTime<Utc>, _: &u64) -> Body<'static> {
            unreachable!("nothing is written here")
        }
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn calls(number: u128) -> Calls {
        Calls(UserId::new(Uuid::from_u128(number)))
    }

    fn count(gathered: &Gathered<Calls>, number: u128, second: i64) -> bool {
        let at = at("2026-11-30T23:58:20Z") + chrono::TimeDelta::seconds(second);
        gathered.add(calls(number), at, |count| *count += 1)
    }

    #[test]
    fn a_window_is_ten_seconds_and_ends_with_them() {
        let gathered = Gathered::default();
        for second in -1..100 {
            assert!(count(&gathered, 1, second));
        }
        let ended = gathered.take(Some(at("2026-11-30T23:59:59Z")));
        assert!(ended.iter().all(|((_, start), _)| *start < at("2026-11-30T23:59:50Z")));
        let rest = gathered.take(None);
        let counts = |windows: &[(Window<Calls>, u64)]| {
            let mut counts: Vec<u64> = windows.iter().map(|(_, count)| *count).collect();
            counts.sort_unstable();
            counts
        };
        assert_eq!(counts(&ended), [1, 10, 10, 10, 10, 10, 10, 10, 10, 10]);
        assert_eq!(counts(&rest), [10]);
    }

    #[test]
    fn the_map_is_bounded() {
        let gathered = Gathered::default();
        let taken = (0..100_000).filter(|number| count(&gathered, *number, 0)).count();
        assert_eq!((taken, gathered.take(None).len()), (MAX_WINDOWS, MAX_WINDOWS));
    }

    #[test]
    fn what_the_log_did_not_take_is_kept() {
        let gathered = Gathered::default();
        count(&gathered, 1, 3);
        let taken = gathered.take(Some(at("2026-11-30T23:58:30Z")));
        assert_eq!(taken.len(), 1);
        count(&gathered, 1, 4);
        gathered.put_back(taken);
        assert_eq!(gathered.take(None).iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2]);

        // However long the log is away.
        (0..MAX_WINDOWS as u128).for_each(|number| assert!(count(&gathered, number, 0)));
        let taken = gathered.take(None);
        (0..MAX_WINDOWS as u128).for_each(|number| assert!(count(&gathered, number, 10)));
        gathered.put_back(taken);
        assert_eq!(gathered.take(None).len(), MAX_WINDOWS);
    }
}
