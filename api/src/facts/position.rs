//! Positions in the log, as clients see them: opaque text to echo, never to compare.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

/// Turns sequences of one stream into opaque positions and back. The tag tells positions of a stream from those of the
/// one that it replaced, in which the same sequence meant something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    tag: u32,
}

impl Positions {
    /// Positions of the stream of this name that was created at this time.
    pub fn of(stream: &str, created: DateTime<Utc>) -> Self {
        let mut hash = Sha256::new();
        hash.update(stream.as_bytes());
        hash.update(created.timestamp_micros().to_be_bytes());
        let digest = hash.finalize();
        Self { tag: u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) }
    }

    /// The position of a sequence: `<partition>-<tag, hex>-<sequence, hex>`.
    pub fn encode(self, seq: u64) -> String {
        let mut text = String::with_capacity(20);
        // Writing to a String cannot fail.
        let _ = write!(text, "0-{:08x}-{seq:x}", self.tag);
        text
    }

    /// The sequence of a position of this stream.
    pub fn decode(self, position: &str) -> Option<u64> {
        let (tag, seq) = position.strip_prefix("0-")?.split_once('-')?;
        let seq = u64::from_str_radix(seq, 16).ok()?;
        // Whatever would be written differently was not issued here: `+1`, leading zeros, upper case.
        (tag.len() == 8 && self.encode(seq) == position).then_some(seq)
    }
}

/// What an answer built on a projection reflects.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AsOf {
    /// Position in the log, for `Ledger-Min-Seq`.
    pub position: String,
    /// When the last event that it reflects was stored in the log; null before the first.
    pub time: Option<DateTime<Utc>>,
    /// How far the projections are behind the log, in milliseconds.
    pub lag_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(created_s: i64) -> Positions {
        Positions::of("LEDGER", DateTime::from_timestamp(created_s, 0).unwrap())
    }

    #[test]
    fn a_position_comes_back_as_its_sequence() {
        for seq in [0, 1, 15, 16, 4_000_000_000, u64::MAX] {
            assert_eq!(positions(1).decode(&positions(1).encode(seq)), Some(seq));
        }
    }

    #[test]
    fn what_was_not_issued_is_unknown() {
        let good = positions(1).encode(0x1a);
        assert_eq!(positions(2).decode(&good), None, "another stream's");
        for bad in
            ["", "1", "26", "0-1", &good.to_uppercase(), &format!("{good} "), &good.replace("-1a", "-01a")]
        {
            assert_eq!(positions(1).decode(bad), None, "{bad}");
        }
    }
}
