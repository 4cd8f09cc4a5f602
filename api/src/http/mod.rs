//! HTTP as every request meets it: bodies and queries, problems, pages, idempotency, the envelope around all of it.
//!
//! Serves all capabilities and knows none of them.

pub mod client;
pub(crate) mod docs;
pub mod envelope;
pub mod extract;
mod gcra;
pub mod idempotency;
pub mod openapi;
pub(crate) mod paging;
pub mod problem;
pub(crate) mod proxied;
pub mod serve;
pub mod site;
pub mod throttle;
pub(crate) mod time_range;
