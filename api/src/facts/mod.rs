//! Facts as every capability writes and reads them: events into the log, projections at a known position.
//!
//! Serves all capabilities and knows none of them. It may touch the log, and the projections to read them.

mod gathered;
mod headers;
mod lag;
mod position;
mod projections;
mod settled;
mod turns;
pub mod watermark;
mod writer;

#[cfg(test)]
pub(crate) use gathered::encode;
pub(crate) use gathered::{Gather, Gathered};
pub(crate) use headers::MinSeqHeader;
pub use headers::{LEDGER_MIN_SEQ, LEDGER_SEQ, LedgerSeq, MinSeq};
pub use lag::Lag;
pub use position::{AsOf, Positions};
pub use projections::Projections;
pub(crate) use settled::settled_seq;
pub use turns::{TurnTimeout, Turns};
pub use watermark::Watermark;
pub use writer::{PROJECTED_WITHIN, Writer, Written};
