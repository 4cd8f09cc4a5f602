//! Usage: what a user has used, as figures, series, rows and statements; and where its counters start anew.

pub(crate) mod calls;
pub(crate) mod history;
pub(crate) mod reset;
pub(crate) mod statements;
pub(crate) mod stats;
