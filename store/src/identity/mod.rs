//! Tables of `public` that are mutable or erasable and come from no log: accounts and what their users sign in with,
//! wrapped keys, idempotency keys, and the end of a user in all of them. May read projections where the log decides;
//! never writes one.

pub mod admins;
pub mod api_keys;
pub mod credential_changes;
pub mod encryption_keys;
pub mod erasure;
pub mod idempotency;
pub mod known_addresses;
pub mod ledger_keys;
pub mod oauth_attempts;
pub mod one_time_links;
pub mod passwords;
pub mod people;
pub mod second_factors;
pub mod sessions;
pub mod users;
pub mod wrapped_keys;
