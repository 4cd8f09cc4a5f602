//! Forms of credentials, without I/O: API keys, passwords, second factors, addresses, secrets that are sent to people.
//!
//! Randomness and time are passed in. A secret is shown by nothing but its `expose`.

mod address;
mod api_key;
mod environment;
mod networks;
pub mod password;
mod recovery;
mod scope;
mod secret;
mod totp;

pub use address::{Address, AddressError, MAX_ADDRESS_BYTES};
pub use api_key::{ApiKey, Hash, MAX_KEY_BYTES, Malformed, PREFIX};
pub use environment::{Environment, EnvironmentError};
pub use networks::{MAX_NETWORKS, Networks, NetworksError};
pub use recovery::{NotACode, RecoveryCode};
pub use scope::{KeyRole, Scope, Scopes, UnknownKeyRole, UnknownScope};
pub use secret::{NotASecret, Secret, is_same};
pub use totp::{TOTP_SECRET_BYTES, TooLongForQr, Totp, qr_svg};
