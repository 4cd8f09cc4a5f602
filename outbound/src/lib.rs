//! All that we send to others: one bounded client, what we ask providers, and documents that an operator points to.

mod client;
pub mod documents;
mod near;
pub mod providers;
