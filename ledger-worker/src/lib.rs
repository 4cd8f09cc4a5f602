//! Turns facts of the log into projections: projector, dead letters, thresholds.
//!
//! [`run`] is the worker process. The projector reads frames in order, and applies each batch in one transaction with
//! the checkpoint's move; whatever is asked of the log twice, the tables count it once.

pub mod batch;
pub mod claim_turns;
pub mod compaction;
mod config;
pub mod dead_letters;
mod erasures;
mod error;
mod job;
mod log;
mod projector;
pub mod rebuild;
mod recount;
pub mod rollover;
mod run;
mod second;
mod status;
mod step;
mod thresholds;
pub mod verify;

pub use batch::{Applier, Batch, BatchError};
pub use config::{MIN_DEDUPE_HORIZON, WorkerConfig};
pub use error::WorkerError;
pub use log::gaps;
pub use run::run;
