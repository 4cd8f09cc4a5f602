//! The log counted anew, by other code than the projector's, in memory that does not grow with it: what `verify` and
//! `rebuild --only summaries` hold against the tables.
//!
//! The log is read once, and what counting needs of each event is written onto the disk, in as many parts of users as
//! it takes for one of them to be counted in memory (`reading`, `record`, `parts`, `scratch`). The tables' rows are
//! read once each and divided in the same way (`found`). Then part after part is counted (`tally`, `chains`) and
//! compared (`judge`).
//!
//! May touch events and frames, the log's reading and the job, and of `batch` the form of an audit chain's link; never
//! what the projector adds up.

mod chains;
mod claims;
mod count;
mod differences;
mod error;
mod found;
mod ids;
mod judge;
mod packed;
mod parts;
mod reading;
mod record;
mod scratch;
mod tally;
#[cfg(test)]
mod tests;
mod totals;

pub(crate) use count::{Count, Scope};
pub(crate) use error::CountError;
pub(crate) use judge::Mends;
pub use scratch::ScratchError;
