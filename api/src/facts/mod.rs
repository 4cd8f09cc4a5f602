//! Facts as every capability writes and reads them: events into the log, projections at a known position.
//!
//! Serves all capabilities and knows none of them.

pub mod position;
pub(crate) mod settled;
pub(crate) mod snapshot;
pub mod watermark;
pub(crate) mod writer;
