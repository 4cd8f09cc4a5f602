//! Lag of the projections behind the log: since when the oldest frame that they lack has been there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Positions seen within this time are one mark.
const MARK_EVERY: Duration = Duration::from_millis(50);
/// Marks that are kept apart. Beyond it neighbours are joined: lag is then told too large rather than too small.
const MAX_MARKS: usize = 512;

/// Positions of the log that are not projected yet, with the instants at which they were seen. Bounded; however long
/// the projections stand still, lag grows with the clock. Pure: the time is passed in.
#[derive(Debug, Default)]
pub struct Lag {
    /// Ascending, by position and by time.
    marks: VecDeque<Mark>,
    /// The highest position seen.
    seq: u64,
    /// The most bytes that this process was seen to have written.
    bytes: u64,
    /// Bytes that it had written when the last projected mark was made.
    projected_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Instant at which the first of its positions was seen.
    since: Instant,
    /// The last of its positions.
    seq: u64,
    /// Bytes written up to there by this process.
    bytes: u64,
}

impl Lag {
    /// The log holds `seq`, and this process has written `bytes` to it since it started, as far as is known here.
    pub fn seen(&mut self, seq: u64, bytes: u64, now: Instant) {
        self.bytes = self.bytes.max(bytes);
        let bytes = self.bytes;
        match self.marks.back_mut() {
            Some(last) if seq <= self.seq || now.saturating_duration_since(last.since) < MARK_EVERY => {
                last.seq = last.seq.max(seq);
                last.bytes = bytes;
            }
            None if seq <= self.seq => self.projected_bytes = bytes,
            _ => self.marks.push_back(Mark { since: now, seq, bytes }),
        }
        self.seq = self.seq.max(seq);
        if self.marks.len() > MAX_MARKS {
            self.join_neighbours();
        }
    }

    /// The projections hold everything up to `seq`.
    pub fn reached(&mut self, seq: u64) {
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.seq <= seq) {
            self.projected_bytes = mark.bytes;
        }
        self.seq = self.seq.max(seq);
    }

    /// The projections lack again what they held up to `seq`.
    pub(super) fn rewound(&mut self, seq: u64, now: Instant) {
        // What they lack longer than that stands first in any case.
        if self.marks.is_empty() {
            self.marks.push_front(Mark { since: now, seq, bytes: self.projected_bytes });
        }
    }

    /// Time for which the oldest position that is not projected has been in the log; zero when all is projected.
    pub fn of(&self, now: Instant) -> Duration {
        self.marks.front().map_or(Duration::ZERO, |mark| now.saturating_duration_since(mark.since))
    }

    /// Bytes that this process has written and that are not projected yet.
    pub(super) fn unprojected_bytes(&self) -> u64 {
        self.marks.back().map_or(0, |mark| mark.bytes.saturating_sub(self.projected_bytes))
    }

    fn join_neighbours(&mut self) {
        let mut joined = VecDeque::with_capacity(MAX_MARKS);
        while let Some(mark) = self.marks.pop_front() {
            let later = self.marks.pop_front().unwrap_or(mark);
            joined.push_back(Mark { since: mark.since, ..later });
        }
        self.marks = joined;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_that_is_missing() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        assert_eq!(lag.of(start), Duration::ZERO);
        lag.seen(10, 100, start);
        lag.seen(20, 200, start + ms(1_000));
        lag.seen(30, 300, start + ms(2_000));
        assert_eq!(lag.of(start + ms(2_500)), ms(2_500));
        lag.reached(10);
        assert_eq!(lag.of(start + ms(2_500)), ms(1_500));
        lag.reached(19);
        assert_eq!(lag.of(start + ms(2_500)), ms(1_500), "20 is still missing");
        assert_eq!(lag.unprojected_bytes(), 200);
        lag.reached(30);
        assert_eq!((lag.of(start + ms(9_000)), lag.unprojected_bytes()), (Duration::ZERO, 0));
    }

    #[test]
    fn a_projector_that_keeps_up_has_no_lag_however_long_it_goes_on() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        for tick in 0..10_000 {
            lag.seen(tick + 20, tick * 7, start + ms(tick * 100));
            lag.reached(tick);
            assert!(lag.of(start + ms(tick * 100)) <= ms(2_000));
        }
    }

    #[test]
    fn while_nothing_is_projected_lag_grows_with_the_clock_and_memory_does_not() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        for tick in 1..100_000 {
            lag.seen(tick, tick * 7, start + ms(tick * 100));
        }
        assert!(lag.marks.len() <= MAX_MARKS);
        assert_eq!(lag.of(start + ms(10_000_000)), ms(9_999_900));
        assert_eq!(lag.unprojected_bytes(), 99_999 * 7);
        lag.reached(99_999);
        assert_eq!(lag.unprojected_bytes(), 0);
    }

    #[test]
    fn bytes_that_are_told_after_their_position_count() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        lag.seen(10, 0, start);
        lag.seen(10, 500, start + ms(100));
        assert_eq!(lag.unprojected_bytes(), 500);
        lag.reached(10);
        lag.seen(10, 700, start + ms(200));
        assert_eq!(lag.unprojected_bytes(), 0);
        lag.seen(11, 800, start + ms(300));
        assert_eq!(lag.unprojected_bytes(), 100);
    }

    #[test]
    fn after_a_rewind_there_is_lag_again() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        lag.seen(10, 100, start);
        lag.reached(10);
        lag.rewound(10, start + ms(1_000));
        assert_eq!(lag.of(start + ms(3_000)), ms(2_000));
        lag.reached(10);
        assert_eq!(lag.of(start + ms(3_000)), Duration::ZERO);
    }
}
