//! Means of whoever runs the ledger: session locks and their holders, accepted gaps, the schema that a rebuild fills,
//! comparisons, what is held against a count of the log and mended by it, and the word of each worker on itself. May
//! touch every table of the projection, as a whole; nothing of `identity`.

pub mod compare;
pub mod gaps;
pub mod lock_holders;
pub mod mend;
pub mod next_schema;
pub mod projector_status;
pub mod recount;
pub mod session_locks;
