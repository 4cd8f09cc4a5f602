//! Positions in the log, as clients see them: opaque text to echo, never to compare.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponseParts, ResponseParts};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::http::problem::{Chain, Code, Problem};
use crate::state::AppState;

/// On the answer to a write: the position at which it stands in the log.
pub const LEDGER_SEQ: HeaderName = HeaderName::from_static("ledger-seq");
/// On a read: the position that its answer must reflect.
pub const LEDGER_MIN_SEQ: HeaderName = HeaderName::from_static("ledger-min-seq");

/// So long does a read wait for its position.
const MIN_SEQ_TIMEOUT: Duration = Duration::from_secs(5);

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

/// The response header `Ledger-Seq`: `(LedgerSeq::at(&state, seq), Json(body))`.
#[derive(Clone, Debug)]
pub struct LedgerSeq(String);

impl LedgerSeq {
    /// The position of a write's frame.
    pub fn at(state: &AppState, seq: u64) -> Self {
        Self(state.positions().encode(seq))
    }
}

impl IntoResponseParts for LedgerSeq {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        // Digits, letters and hyphens are a valid header.
        if let Ok(value) = HeaderValue::try_from(self.0) {
            response.headers_mut().insert(LEDGER_SEQ, value);
        }
        Ok(response)
    }
}

/// Put it behind the caller in every handler that reads a projection: with `Ledger-Min-Seq` it waits until the
/// projections have reached that position. 400 when it was not issued here, 503 when it is not reached in 5 s.
#[derive(Clone, Copy, Debug)]
pub struct MinSeq;

impl FromRequestParts<AppState> for MinSeq {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(LEDGER_MIN_SEQ).iter();
        let Some(value) = values.next() else { return Ok(Self) };
        let unknown =
            || Problem::malformed(Code::UnknownPosition, "Ledger-Min-Seq is not a position of this log.");
        let seq = value.to_str().ok().and_then(|text| state.positions().decode(text)).ok_or_else(unknown)?;
        if values.next().is_some() {
            return Err(unknown());
        }
        if seq <= state.watermark().current() {
            return Ok(Self);
        }
        if seq > state.publisher().last_acked() {
            // Another process may have written it.
            let log = state.log().state().await;
            let log = log.map_err(|error| Problem::unavailable("log").because(Chain(&error).to_string()))?;
            if seq > log.last_seq {
                return Err(unknown());
            }
        }
        if state.watermark().wait_for(seq, MIN_SEQ_TIMEOUT).await {
            return Ok(Self);
        }
        Err(Problem::busy("The projections have not reached Ledger-Min-Seq yet; try again."))
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

impl AsOf {
    /// For an answer read in the snapshot in which the checkpoint was at `seq`, of a frame stored at `time`.
    pub fn of(state: &AppState, seq: u64, time: Option<DateTime<Utc>>) -> Self {
        let log_seq = state.publisher().last_acked().max(state.watermark().log_seq());
        let lag_ms = if seq >= log_seq { 0 } else { state.watermark().behind_for_ms() };
        Self { position: state.positions().encode(seq), time, lag_ms }
    }
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
