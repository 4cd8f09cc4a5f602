//! Plans: what is sold, and how a user comes from one to another.

pub mod change;
pub(crate) mod list;
pub(crate) mod put;
pub(crate) mod upgrade;
