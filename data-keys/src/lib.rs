//! Users' data keys: made at first need, opened, remembered for a while, re-wrapped under another root key.
//!
//! This is the only place where opened data keys live. The cache is bounded; keys that are forgotten zero themselves
//! when the last request that uses them ends.

mod config;
mod erasure;
mod error;
mod external_ids;
mod follow;
mod keys;
mod rotation;
mod start;
mod wrapped;

pub use config::KeyConfig;
pub use error::KeysError;
pub use external_ids::Hasher;
pub use keys::{Found, Keys};
pub use rotation::{Page, Refused, rewrap_ledger_keys, rewrap_page};
pub use start::{InUse, in_use, ring};
