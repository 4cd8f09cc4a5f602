//! A batch of frames on its way from the log to the tables: parsed, then made ready, then applied.
//!
//! Parsing and preparing are pure and run beside the database's work; applying takes a connection and a prepared batch
//! and does not care which schema the connection's `search_path` names. May touch the store's projection tables and
//! users' data keys, never the log.

mod acts;
mod applier;
mod apply;
mod audited;
mod claim;
mod corrections;
mod fault;
mod heavy;
mod item;
mod late;
mod parse;
mod personal;
mod pipeline;
mod prepare;
mod ready;
mod stage;

pub use applier::Applier;
pub use apply::{Applied, ApplyError, apply_late};
pub use audited::Audited;
pub(crate) use audited::{Tokens, link_hash};
pub use fault::{BrokenLink, EventFault};
pub use item::{Call, Command, Item};
pub use parse::Parsed;
pub use personal::KnownDataKeys;
pub use pipeline::{Landed, Pipeline};
pub use prepare::{Exclude, Prepared, Segment};
pub use ready::{Batch, BatchError};
