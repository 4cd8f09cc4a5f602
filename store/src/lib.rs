//! Plain async functions over PostgreSQL: one file per table family.
//!
//! Functions take a connection; the caller owns the transaction. Tables are named without a schema: the connection's
//! `search_path` decides which projection they see, so that a rebuild fills `ledger_next` with the very same SQL.

pub mod advisory;
pub mod checkpoint;
pub mod claims;
pub mod compare;
pub mod completions;
pub mod connect;
pub mod data_keys;
pub mod dead_letters;
pub mod encryption_keys;
pub mod erasure;
pub mod error;
pub mod gaps;
pub mod idempotency;
pub mod limits;
pub mod migrate;
pub mod next_schema;
pub mod ops;
pub mod outcomes;
pub mod partitions;
pub mod periods;
pub mod position;
pub mod producers;
pub mod projector_status;
pub mod read;
pub mod recount;
pub mod rejections;
pub mod remains;
pub mod rollover;
pub mod rollups;
pub mod savepoint;
pub mod subscriptions;
pub mod summaries;
pub mod thresholds;
pub mod token_audit;
pub mod tokens;
pub mod usage_rows;
pub mod users;

pub use connect::{Schema, check, connect, options, pool};
pub use error::{Constraint, Error};
pub use migrate::migrate;
pub use position::Position;
