//! The worker's tables: projections of the log in the schema that the connection sees. Nobody else writes them; others
//! may read. Uses no other folder of this crate.

pub mod audit_chain;
pub mod checkpoint;
pub mod claims;
pub mod completions;
pub mod dead_letters;
pub mod erased_users;
pub mod gathered;
pub mod hours;
pub mod partitions;
pub mod periods;
pub mod personal_tables;
pub mod producers;
pub mod requests;
pub mod savepoint;
pub mod subscriptions;
pub mod summaries;
pub mod thresholds;
pub mod token_rows;
pub mod usage_rows;
