//! Failures of the process as a whole.

use std::net::SocketAddr;

use data_keys::KeysError;
use outbound::github::GitHubSetupError;
use outbound::providers::ProvidersError;

use crate::auth::JwtKeyError;
use crate::limits::StartError;

/// Reason why the api could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The database's address cannot be used.
    #[error("DATABASE_URL cannot be used")]
    Database(#[source] store::Error),
    /// The encryption keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Bearer tokens cannot be verified.
    #[error(transparent)]
    Jwt(#[from] JwtKeyError),
    /// Providers of tokens cannot be asked.
    #[error(transparent)]
    Providers(#[from] ProvidersError),
    /// GitHub cannot be asked.
    #[error(transparent)]
    GitHub(#[from] GitHubSetupError),
    /// NATS cannot be reached.
    #[error(transparent)]
    Connect(#[from] nats::ConnectError),
    /// The stream could not be made or looked at.
    #[error("the log's stream cannot be used (NATS_STREAM)")]
    Log(#[from] nats::LogError),
    /// The log does not hold what is promised.
    #[error(transparent)]
    UnsafeLog(#[from] nats::UnsafeLog),
    /// Another api serves this database.
    #[error(transparent)]
    Limits(#[from] StartError),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}; set {variable} to a free address of this machine")]
    Listen {
        /// The variable that holds it.
        variable: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's own error.
        #[source]
        source: std::io::Error,
    },
}
