//! A batch of frames on its way from the log to the tables: parsed, then made ready, then applied.
//!
//! Parsing and preparing are pure and run beside the database's work; applying takes a connection and a prepared batch
//! and does not care which schema the connection's `search_path` names.

mod apply;
mod audited;
mod item;
mod parse;
mod personal;
mod prepare;

pub use apply::{Applied, ApplyError, Target, apply_all, apply_late};
pub use audited::Audited;
pub(crate) use audited::{Tokens, link_hash};
pub use item::{Call, Command, Item};
pub use parse::Parsed;
pub use personal::KnownKeys;
pub use prepare::{Exclude, Prepared, Segment};
