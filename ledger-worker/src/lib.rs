//! Turns facts of the log into projections: projector, dead letters, thresholds.
//!
//! [`run`] is the worker process. The projector reads frames in order, and applies each batch in one transaction with
//! the checkpoint's move; whatever is asked of the log twice, the tables count it once.

pub mod batch;
mod config;
pub mod dead_letters;
mod erasures;
mod error;
pub mod gaps;
mod projector;
mod reading;
pub mod rebuild;
pub mod rollover;
mod run;
mod standing;
mod status;
mod thresholds;
pub mod verify;

pub use config::WorkerConfig;
pub use error::WorkerError;
pub use projector::Applier;
pub use reading::{Batch, BatchError, accepted_gaps, continuity};
pub use run::run;
