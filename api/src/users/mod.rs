//! Users: who the host says they are, what is kept of them, and their end.

pub(crate) mod erase;
pub(crate) mod export;
pub mod export_turns;
pub(crate) mod put;
