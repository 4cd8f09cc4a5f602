//! All that we send to others: one bounded client, what we ask providers, documents that an operator points to, and
//! GitHub's word on who signs in.

mod base_url;
mod client;
pub mod documents;
pub mod github;
mod near;
pub mod providers;
