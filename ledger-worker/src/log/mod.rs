//! The log as the worker reads it: ahead of its use, checked frame by frame, held against the checkpoint.
//!
//! May touch `nats`, and of the store the checkpoint, the producers and the accepted gaps. What it reads for the
//! projector it hands to `batch`; it writes nothing that is projected.

mod ahead;
mod continuity;
pub mod gaps;
mod log_check;
mod reading;

pub(crate) use ahead::{Ahead, AheadError, Chunk, each_frame};
pub(crate) use continuity::{accepted_gaps, continuity};
pub(crate) use log_check::{LogCheck, sound_checkpoint};
pub(crate) use reading::{Read, Reading};
