//! What the api reads from the projections.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agreement;
mod calls;
mod history;
mod migrated_statements;
mod reset;
mod seed;
mod snapshot;
mod statements;
mod stats;
