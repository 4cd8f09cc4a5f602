//! Starts, supervises and stops private PostgreSQL and nats-server processes on loopback ports.
//!
//! Each server is a direct child of this process, in a process group of its own so that Ctrl-C reaches it only through
//! us. A supervisor thread starts it again when it dies unasked. A child never outlives us for long: a watchdog shell
//! holds the reading end of a pipe and stops the server when our end closes, which the kernel does even after
//! SIGKILL; what still survives (the watchdog killed too) is found by its data directory and stopped at the next start.
//!
//! A program is run only from where whoever installed the machine or started us put it, never because it lies near the
//! working directory, and never with our environment.

mod binaries;
mod child;
mod data_dir;
mod error;
mod nats_server;
mod orphans;
mod postgres;
mod process;

pub use data_dir::DataDir;
pub use error::StartError;
pub use nats_server::{NatsConfig, NatsServer};
pub use postgres::{Postgres, PostgresConfig};

/// Looks for the programs of both servers, so that what is missing is told before anything is started.
///
/// # Errors
/// [`StartError::ProgramNotFound`] and [`StartError::NotNatsServer`].
pub fn check_programs() -> Result<(), StartError> {
    binaries::postgres_dir(None)?;
    binaries::nats_server().map(drop)
}

/// A port of the loopback address that nothing listens on now.
///
/// Between this call and its use somebody else may take it: callers retry with another one.
pub fn free_port() -> Result<u16, StartError> {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| StartError::io("cannot find a free loopback port", source))
}
