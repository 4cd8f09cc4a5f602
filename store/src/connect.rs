//! Connections, and the settings of each.

use std::io::ErrorKind;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{Error, schema};

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
/// Time that a server has for a new session, login included: one that accepts and stays silent is not waited for.
const CONNECT_WITHIN: Duration = Duration::from_secs(4);
/// Time that an idle session has to show that it is alive, and so has one that somebody has let go of.
const ALIVE_WITHIN: Duration = Duration::from_secs(1);
/// A session that was used so short a time ago is not asked whether it is alive.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// The server's end of every session: how soon it notices that ours is gone, and with the session lets go of its locks.
/// A host that is gone without a word is noticed after some ten seconds, idle or not, and a session whose statement
/// nobody waits for any more after two. A process that stands still answers for its host all the same: what it has
/// locked in a transaction it holds for a minute at the most.
const SERVER_END: [(&str, &str); 6] = [
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "10000"),
    ("client_connection_check_interval", "2000"),
    ("idle_in_transaction_session_timeout", "60000"),
];
/// For how long a session that keeps the projector waiting may do nothing in a transaction: a worker that stands still
/// is relieved sooner than in ten seconds.
const SHORT_IDLE: [(&str, &str); 1] = [("idle_in_transaction_session_timeout", "5000")];

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
        .options(SERVER_END)
        .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(5)))
}

/// A pool of at most `max_connections` for the live projection. Connects when first used, so that a process starts
/// while the database is away.
pub fn pool(database_url: &str, max_connections: u32) -> Result<PgPool, Error> {
    Ok(pool_of(options(database_url, Schema::Live)?, max_connections))
}

/// A pool for work beside the projector, in transactions that are never left idle: a session that does nothing in one
/// for five seconds is ended by the server, with all that it has locked.
///
/// # Errors
/// [`Error::Url`] when the URL can't be read.
pub fn reconciler_pool(database_url: &str, max_connections: u32) -> Result<PgPool, Error> {
    Ok(pool_of(options(database_url, Schema::Live)?.options(SHORT_IDLE), max_connections))
}

/// A pool that keeps no session which does not answer: our end of a connection has no time limits of its own, and a
/// session that is silent would keep its place for ever.
pub(crate) fn pool_of(options: PgConnectOptions, max_connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // That test has no time limit.
        .test_before_acquire(false)
        .before_acquire(|conn, meta| {
            Box::pin(async move { Ok(meta.idle_for < FRESH_FOR || is_alive(conn).await.is_ok()) })
        })
        .after_release(|conn, _| {
            Box::pin(async move {
                is_alive(conn).await?;
                Ok(true)
            })
        })
        .connect_lazy_with(options)
}

/// An error: the session is to be closed without a goodbye, for which it might wait for ever.
async fn is_alive(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    timeout(ALIVE_WITHIN, conn.ping()).await.unwrap_or_else(|_| Err(late("an idle session", ALIVE_WITHIN)))
}

/// Bounds what the database may take for `operation`. A session on which something was given up is not to be used
/// again; it is closed when it is dropped.
///
/// # Errors
/// [`Error::Unavailable`] when the time is up, beside those of `work`.
pub async fn within<T, E: From<Error>>(
    operation: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(Error::from(late(operation, limit)).into()))
}

fn late(operation: &str, limit: Duration) -> sqlx::Error {
    let words = format!("{operation} took longer than {} s", limit.as_secs());
    sqlx::Error::Io(std::io::Error::new(ErrorKind::TimedOut, words))
}

pub(crate) async fn open(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    // Boxed: a connection being made is larger than all the rest.
    let connecting = Box::pin(PgConnection::connect_with(options));
    timeout(CONNECT_WITHIN, connecting)
        .await
        .unwrap_or_else(|_| Err(late("connecting to the database", CONNECT_WITHIN)))
}

/// Looks once, at the start of a process, whether the database can be used. One that does not answer may answer later:
/// that is no error here.
///
/// # Errors
/// [`Error::Rejected`], and what [`schema::check`] finds, which only a person can mend; [`Error::Url`] when the URL
/// can't be read.
pub async fn check(database_url: &str) -> Result<(), Error> {
    let mut conn = match open(&options(database_url, Schema::Live)?).await {
        Ok(conn) => conn,
        Err(source) if is_rejection(&source) => return Err(Error::Rejected(source)),
        Err(_) => return Ok(()),
    };
    match within("reading the migrations", CONNECT_WITHIN, schema::check(&mut conn)).await {
        Err(error @ (Error::NoTables | Error::Schema(_))) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// One connection outside of any pool, for a session that holds a lock or listens.
pub async fn connect(database_url: &str, schema: Schema) -> Result<PgConnection, Error> {
    Ok(open(&options(database_url, schema)?).await?)
}

/// One connection on which nothing can be written.
pub async fn connect_read_only(database_url: &str, schema: Schema) -> Result<PgConnection, Error> {
    let options = options(database_url, schema)?.options([("default_transaction_read_only", "on")]);
    Ok(open(&options).await?)
}

/// One connection for applying batches. Its statements join small arrays with large tables by their keys: a hash join
/// would read whole partitions, so the planner is told to keep to nested loops.
pub async fn connect_projector(database_url: &str, schema: Schema) -> Result<PgConnection, Error> {
    Ok(open(&projector_options(database_url, schema)?).await?)
}

/// A second connection for applying batches, of the process `holder`, whose first one holds the projector's lock. It is
/// known by its name to whoever ends the first.
pub async fn connect_second(database_url: &str, schema: Schema, holder: Uuid) -> Result<PgConnection, Error> {
    Ok(open(&projector_options(database_url, schema)?.application_name(&second_of(holder))).await?)
}

fn projector_options(database_url: &str, schema: Schema) -> Result<PgConnectOptions, Error> {
    Ok(options(database_url, schema)?.options([("enable_hashjoin", "off"), ("enable_mergejoin", "off")]))
}

/// The name of the process's second session; PostgreSQL cuts names after 63 bytes.
pub(crate) fn second_of(holder: Uuid) -> String {
    format!("usage-ledger second {holder}")
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
