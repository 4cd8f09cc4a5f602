//! Shares of reporters in what is written and not projected yet. Pure, bounded.

use std::collections::{HashMap, VecDeque};

use ledger::UserId;

/// Reporters who are told apart. What further ones report counts as one reporter's.
const MAX_REPORTERS: usize = 10_000;
/// Positions of one reporter that are kept apart. Beyond it neighbours are joined at the later position.
const MAX_POSITIONS: usize = 16;
/// Bytes that are nobody's too many: about a hundred calls. Who reports now and then is no burden, though nobody else
/// reports at all.
const ALWAYS_FAIR_BYTES: u64 = 64 * 1024;

/// Bytes that reporters have written and the projections lack.
#[derive(Debug, Default)]
pub(super) struct Shares {
    reporters: HashMap<UserId, Share>,
    /// Of those for whom there was no room.
    others: Share,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Share {
    bytes: u64,
    /// Its bytes by sequence, ascending.
    beyond: VecDeque<(u64, u64)>,
}

impl Shares {
    /// The reporter has written `bytes`, the last of them at `seq`.
    pub(super) fn add(&mut self, reporter: UserId, bytes: u64, seq: u64) {
        let is_room = self.reporters.len() < MAX_REPORTERS || self.reporters.contains_key(&reporter);
        let share = if is_room { self.reporters.entry(reporter).or_default() } else { &mut self.others };
        share.add(bytes, seq);
        self.bytes += bytes;
    }

    /// The projections have reached `seq`.
    pub(super) fn reached(&mut self, seq: u64) {
        let bytes = &mut self.bytes;
        *bytes -= self.others.reached(seq);
        self.reporters.retain(|_, share| {
            *bytes -= share.reached(seq);
            share.bytes > 0
        });
        if self.reporters.is_empty() {
            self.reporters.shrink_to(64);
        }
    }

    /// Tells whether the reporter has its fair share or more: the mean of those who have anything. There is always
    /// somebody who has, so that to turn those away slows what comes; and of two who report, one a lot and the other a
    /// little, it is the first one.
    pub(super) fn is_above(&self, reporter: UserId) -> bool {
        let is_full = self.reporters.len() >= MAX_REPORTERS;
        let share = match self.reporters.get(&reporter) {
            Some(share) => share.bytes,
            None if is_full => self.others.bytes,
            None => 0,
        };
        let others = usize::from(self.others.bytes > 0);
        let reporters = u64::try_from(self.reporters.len() + others).unwrap_or(u64::MAX);
        share > ALWAYS_FAIR_BYTES && share.saturating_mul(reporters) >= self.bytes
    }
}

impl Share {
    /// Acknowledgements come nearly in order, so the search starts at the end.
    fn add(&mut self, bytes: u64, seq: u64) {
        self.bytes += bytes;
        let mut at = self.beyond.len();
        while at > 0 && self.beyond[at - 1].0 > seq {
            at -= 1;
        }
        self.beyond.insert(at, (seq, bytes));
        if self.beyond.len() > MAX_POSITIONS {
            self.join_neighbours();
        }
    }

    fn join_neighbours(&mut self) {
        let mut joined = VecDeque::with_capacity(MAX_POSITIONS + 1);
        while let Some((seq, bytes)) = self.beyond.pop_front() {
            let (later_seq, later_bytes) = self.beyond.pop_front().unwrap_or((seq, 0));
            joined.push_back((later_seq, bytes + later_bytes));
        }
        self.beyond = joined;
    }

    /// Forgets what is projected; answers how many bytes.
    fn reached(&mut self, seq: u64) -> u64 {
        let before = self.bytes;
        while let Some((_, bytes)) = self.beyond.pop_front_if(|(at, _)| *at <= seq) {
            self.bytes -= bytes;
        }
        before - self.bytes
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn reporter(number: u128) -> UserId {
        UserId::new(Uuid::from_u128(number))
    }

    #[test]
    fn of_a_large_and_a_small_one_the_large_one_is_above_its_share() {
        let mut shares = Shares::default();
        shares.add(reporter(1), 10 * MIB, 10);
        shares.add(reporter(2), MIB, 11);
        assert!(shares.is_above(reporter(1)));
        assert!(!shares.is_above(reporter(2)));
        assert!(!shares.is_above(reporter(3)), "who has nothing");
        shares.reached(10);
        assert!(!shares.is_above(reporter(1)), "all of it is projected");
        assert!(shares.is_above(reporter(2)), "now it is the only one");
        shares.reached(11);
        assert!(!shares.is_above(reporter(2)));
        assert_eq!((shares.bytes, shares.reporters.len()), (0, 0));
    }

    #[test]
    fn somebody_is_always_above_and_among_equals_everybody() {
        let mut shares = Shares::default();
        for number in 0..100 {
            shares.add(reporter(number), MIB, 1);
        }
        assert!((0..100).all(|number| shares.is_above(reporter(number))));
        shares.add(reporter(7), 1, 2);
        assert_eq!((0..100).filter(|number| shares.is_above(reporter(*number))).count(), 1);
    }

    #[test]
    fn a_little_is_never_too_much() {
        let mut shares = Shares::default();
        shares.add(reporter(1), ALWAYS_FAIR_BYTES, 1);
        assert!(!shares.is_above(reporter(1)));
        shares.add(reporter(1), 1, 1);
        assert!(shares.is_above(reporter(1)));
    }

    #[test]
    fn ten_thousand_reporters_and_more_leave_it_bounded() {
        let mut shares = Shares::default();
        let mut seq = 0;
        for round in 0..100_u64 {
            for number in 0..10_500 {
                seq += 1;
                shares.add(reporter(number), 100 + round, seq);
            }
        }
        assert_eq!(shares.reporters.len(), MAX_REPORTERS);
        let positions = shares.reporters.values().map(|share| share.beyond.capacity()).max();
        assert!(positions <= Some(2 * MAX_POSITIONS + 2), "{positions:?}");
        assert!(shares.others.beyond.len() <= MAX_POSITIONS);
        assert!(shares.is_above(reporter(10_499)), "those without a room of their own are one");
        let total: u64 =
            shares.reporters.values().map(|share| share.bytes).sum::<u64>() + shares.others.bytes;
        assert_eq!(total, shares.bytes);
        shares.reached(seq);
        assert_eq!((shares.bytes, shares.reporters.len()), (0, 0));
        assert!(shares.reporters.capacity() < 1_000);
    }

    #[test]
    fn acknowledgements_out_of_order_are_sorted() {
        let mut shares = Shares::default();
        shares.add(reporter(1), 30 * MIB, 30);
        shares.add(reporter(1), 10 * MIB, 10);
        shares.add(reporter(1), 20 * MIB, 20);
        shares.reached(20);
        assert_eq!(shares.bytes, 30 * MIB);
    }
}
