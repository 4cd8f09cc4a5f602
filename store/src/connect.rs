//! Connections, and the settings of each.

use std::io::ErrorKind;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use crate::Error;

/// The projection that a connection sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// The one that is read.
    Live,
    /// The one that a rebuild fills.
    Next,
}

impl Schema {
    /// The schema's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "ledger",
            Self::Next => "ledger_next",
        }
    }

    const fn search_path(self) -> &'static str {
        match self {
            Self::Live => "ledger,public",
            Self::Next => "ledger_next,public",
        }
    }
}

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of a connection to this database. `sslmode` (`require`, `verify-full`, …) and `sslrootcert` are parameters
/// of the URL.
///
/// # Errors
/// [`Error::Url`] when the URL can't be read.
pub fn options(database_url: &str, schema: Schema) -> Result<PgConnectOptions, Error> {
    Ok(PgConnectOptions::from_str(database_url)
        .map_err(Error::Url)?
        .application_name("usage-ledger")
        .options([("search_path", schema.search_path()), ("TimeZone", "UTC")])
        .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(5)))
}

/// A pool of at most `max_connections` for the live projection. Connects when first used, so that a process starts
/// while the database is away.
pub fn pool(database_url: &str, max_connections: u32) -> Result<PgPool, Error> {
    Ok(PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options(database_url, Schema::Live)?))
}

/// Looks once, at the start of a process, whether the database can be used. One that does not answer may answer later:
/// that is no error here.
///
/// # Errors
/// [`Error::Rejected`] and [`Error::NoTables`], which only a person can mend; [`Error::Url`] when the URL can't be
/// read.
pub async fn check(database_url: &str) -> Result<(), Error> {
    let mut conn = match PgConnection::connect_with(&options(database_url, Schema::Live)?).await {
        Ok(conn) => conn,
        Err(source) if is_rejection(&source) => return Err(Error::Rejected(source)),
        Err(_) => return Ok(()),
    };
    // Not checked at compile time: there may be no table yet.
    let found: Result<bool, _> = sqlx::query_scalar(
        "SELECT to_regclass('projection_checkpoint') IS NOT NULL
                    AND to_regclass('public.encryption_keys') IS NOT NULL",
    )
    .fetch_one(&mut conn)
    .await;
    match found {
        Ok(false) => Err(Error::NoTables),
        Ok(true) | Err(_) => Ok(()),
    }
}

/// One connection outside of any pool, for a session that holds a lock or listens.
pub async fn connect(database_url: &str, schema: Schema) -> Result<PgConnection, Error> {
    Ok(PgConnection::connect_with(&options(database_url, schema)?).await?)
}

/// One connection on which nothing can be written.
pub async fn connect_read_only(database_url: &str, schema: Schema) -> Result<PgConnection, Error> {
    let options = options(database_url, schema)?.options([("default_transaction_read_only", "on")]);
    Ok(PgConnection::connect_with(&options).await?)
}

/// One connection for applying batches. Its statements join small arrays with large tables by their keys: a hash join
/// would read whole partitions, so the planner is told to keep to nested loops.
pub async fn connect_projector(database_url: &str, schema: Schema) -> Result<PgConnection, Error> {
    let options =
        options(database_url, schema)?.options([("enable_hashjoin", "off"), ("enable_mergejoin", "off")]);
    Ok(PgConnection::connect_with(&options).await?)
}

/// SQLSTATE class 28: the login; 3D000: no such database. A failed TLS handshake is a matter of `sslmode`.
fn is_rejection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        // What TLS objects to, a certificate for one, comes through the stream.
        sqlx::Error::Io(error) => error.kind() == ErrorKind::InvalidData,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("28") || code == "3D000")
        }
        _ => false,
    }
}
