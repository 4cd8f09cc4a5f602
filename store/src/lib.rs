//! Plain async functions over PostgreSQL: one file per table family, in folders by who writes the tables.
//!
//! Functions take a connection; the caller owns the transaction. Tables are named without a schema: the connection's
//! `search_path` decides which projection they see, so that a rebuild fills `ledger_next` with the very same SQL.

pub mod connect;
pub mod error;
pub mod identity;
pub mod listen;
pub mod migrate;
pub mod operations;
mod patience;
pub mod position;
pub mod projection;
pub mod read;
pub mod schema;
pub mod versions;

pub use connect::{Schema, check, connect, connect_read_only, options, pool, reconciler_pool, within};
pub use error::{Constraint, Error};
pub use migrate::migrate;
pub use position::Position;
