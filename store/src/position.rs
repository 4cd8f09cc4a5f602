//! Position in the log that a row comes from.

/// A position in the log: the frame's sequence in the stream and the event's index in the frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Sequence of the frame, from 1.
    pub seq: u64,
    /// Index of the event in the frame, from 0.
    pub idx: u16,
}

impl Position {
    /// The columns `log_seq` and `log_idx`.
    pub fn columns(self) -> (i64, i32) {
        (seq_to_column(self.seq), i32::from(self.idx))
    }

    /// The position of these columns.
    pub fn from_columns(log_seq: i64, log_idx: i32) -> Self {
        Self { seq: seq_from_column(log_seq), idx: u16::try_from(log_idx).unwrap_or(u16::MAX) }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.seq, self.idx)
    }
}

/// A stream sequence as a column. JetStream counts from 1 by one; 2^63 frames are out of reach.
pub fn seq_to_column(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// A stream sequence from its column, which is never negative.
pub fn seq_from_column(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}
