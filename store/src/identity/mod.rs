//! Tables of `public` that are mutable or erasable and come from no log: accounts, wrapped keys, idempotency keys, and
//! the end of a user in all of them. May read projections where the log decides; never writes one.

pub mod api_keys;
pub mod encryption_keys;
pub mod erasure;
pub mod idempotency;
pub mod ledger_keys;
pub mod users;
pub mod wrapped_keys;
