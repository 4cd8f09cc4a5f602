//! The log counted anew in memory, by other code than the projector's: what `verify` compares with the tables, and
//! `rebuild --only summaries` puts into them.
//!
//! May touch events and frames, and of `batch` the form of an audit chain's link; never what the projector adds up.

mod audit;
mod claims;
mod count;
mod recent;
mod tally;

pub(crate) use count::{CountError, Counted, count, dead_positions, refuse_late_completions};
