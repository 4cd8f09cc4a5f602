//! Forms of credentials, without I/O: what an API key looks like, what it may do, and from where.
//!
//! Randomness is passed in. A secret is shown by nothing but [`ApiKey::expose`].

mod api_key;
mod environment;
mod networks;
mod scope;

pub use api_key::{ApiKey, Hash, MAX_KEY_BYTES, Malformed, PREFIX};
pub use environment::{Environment, EnvironmentError};
pub use networks::{MAX_NETWORKS, Networks, NetworksError};
pub use scope::{KeyRole, Scope, Scopes, UnknownKeyRole, UnknownScope};
