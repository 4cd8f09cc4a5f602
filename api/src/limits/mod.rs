//! Limits that hold: exact on one instance.
//!
//! The decision is pure ([`ledger::limit`]); [`tally`] knows what counts for a user, `table` keeps the tallies, `reader`
//! reads the projections for many users at once, and `gate` says whether this process may decide at all. A warm user's
//! call is decided in memory. Whatever is admitted counts from that instant, until its position in the log (or the proof
//! that it has none) is known and the projection contains it.

mod admission;
mod ask;
mod counts;
mod error;
mod fates;
mod gate;
mod headers;
mod limiter;
mod lock;
mod log_end;
mod projected;
mod reader;
mod refusal;
mod rejections;
mod table;
mod tally;

pub use admission::{Admission, Recording};
pub use ask::{Ask, Standing};
pub use error::{LimitsError, Unready};
pub use headers::append_usage_headers;
pub use limiter::{Limits, LimitsParts, Preview, Verdict};
pub use lock::StartError;
pub use refusal::Refusal;
pub use tally::PlanDecision;
