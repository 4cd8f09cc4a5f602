//! All that we send to others: one bounded client, and what we ask providers.

mod client;
pub mod providers;
