//! Failures of the database, told apart by the caller's way out.

use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgDatabaseError;

use crate::versions::Difference;

/// A failed database operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A row with this key is there already (SQLSTATE 23505).
    #[error("a row with this key exists already ({0})")]
    Conflict(Constraint, #[source] sqlx::Error),
    /// The database refused a value (SQLSTATE classes 22 and 23): trying again does not help.
    #[error("the database refused a value (SQLSTATE {sqlstate})")]
    Refused {
        /// The five characters of the SQLSTATE.
        sqlstate: String,
        /// The database's own error.
        #[source]
        source: sqlx::Error,
    },
    /// The database can't be reached or is not ready; trying again later helps.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// Any other failure.
    #[error("a database operation failed")]
    Database(#[source] sqlx::Error),
    /// The checkpoint is not where this projector left it: another one is at work.
    #[error("the projection checkpoint of partition {partition} is no longer at {expected_seq}")]
    CheckpointMoved {
        /// Partition of the log.
        partition: i16,
        /// Sequence where the checkpoint should have been.
        expected_seq: u64,
    },
    /// A statement changed another number of rows than it must.
    #[error("{operation} changed {actual} rows instead of {expected}")]
    RowCount {
        /// The operation.
        operation: &'static str,
        /// Rows it must change.
        expected: u64,
        /// Rows it changed.
        actual: u64,
    },
    /// A stored value that this program cannot have written.
    #[error("column {column} of table {table} holds a value that is not valid: {value}")]
    Inconsistent {
        /// Table of the row.
        table: &'static str,
        /// Column of the value.
        column: &'static str,
        /// The value, as text.
        value: String,
    },
    /// Somebody holds a lock for long; trying again later helps.
    #[error("another session has held a lock on the table for more than {} s", within.as_secs())]
    Locked {
        /// The time for which it was tried.
        within: Duration,
        /// The database's own error.
        #[source]
        source: sqlx::Error,
    },
    /// The database's address can't be used.
    #[error("the database URL is not valid")]
    Url(#[source] sqlx::Error),
    /// The server does not let us in: waiting does not help.
    #[error("the server refuses its login, its database's name or its sslmode")]
    Rejected(#[source] sqlx::Error),
    /// The database is one without our tables.
    #[error("the database has no tables of the ledger; run `usage-ledger migrate`")]
    NoTables,
    /// The tables are those of another version.
    #[error(transparent)]
    Schema(#[from] Difference),
    /// The tables could not be brought up to date.
    #[error("the database could not be migrated")]
    Migrate(#[source] sqlx::migrate::MigrateError),
}

impl Error {
    /// Whether the database refused a value of the statement: it will refuse it again.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Conflict(..))
    }

    /// Whether the same operation may well succeed a little later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Locked { .. })
    }

    /// The constraint of a [`Error::Conflict`].
    pub fn conflict(&self) -> Option<&Constraint> {
        match self {
            Self::Conflict(constraint, _) => Some(constraint),
            _ => None,
        }
    }
}

/// A unique constraint, by what it guards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint {
    /// A call of a user, by its time and id, is stored once.
    UsageId,
    /// A client's event counts once.
    ClaimId,
    /// A request is claimed once.
    RequestClaim,
    /// A user's id.
    UserId,
    /// An external id names one user.
    UserExternalId,
    /// An external id that was an erased user's names nobody again.
    UserExternalIdHash,
    /// An idempotency key is used once.
    IdempotencyKey,
    /// A name by which somebody signs in is one user's.
    Identity,
    /// Any other.
    Other(String),
}

impl Constraint {
    /// The only place that knows the names of constraints.
    fn named(name: &str) -> Self {
        match name {
            "event_claims_0_pkey" | "event_claims_1_pkey" | "event_claims_2_pkey" => Self::ClaimId,
            "request_claims_pkey" => Self::RequestClaim,
            "users_pkey" => Self::UserId,
            "users_external_id_key" => Self::UserExternalId,
            "users_external_id_hash_key" => Self::UserExternalIdHash,
            "idempotency_keys_pkey" => Self::IdempotencyKey,
            "identities_pkey" => Self::Identity,
            // Partitions are named api_usage_YYYY_MM, their keys follow.
            _ if name.starts_with("api_usage") && name.ends_with("_pkey") => Self::UsageId,
            _ => Self::Other(name.to_owned()),
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UsageId => f.write_str("id of a call"),
            Self::ClaimId => f.write_str("id of a client's event"),
            Self::RequestClaim => f.write_str("request of a proxy"),
            Self::UserId => f.write_str("user id"),
            Self::UserExternalId => f.write_str("external id"),
            Self::UserExternalIdHash => f.write_str("hash of an external id"),
            Self::IdempotencyKey => f.write_str("idempotency key"),
            Self::Identity => f.write_str("name of a sign-in"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(source: sqlx::Error) -> Self {
        let code = match &source {
            sqlx::Error::Database(error) => error.code().unwrap_or_default().into_owned(),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_) => return Self::Unavailable(source),
            _ => return Self::Database(source),
        };
        match code.get(..2).unwrap_or_default() {
            _ if code == "23505" => Self::Conflict(constraint_of(&source), source),
            "22" | "23" => Self::Refused { sqlstate: code, source },
            // Connection exceptions, serialization failures and deadlocks, exhausted resources, operator intervention,
            // system errors.
            "08" | "40" | "53" | "57" | "58" => Self::Unavailable(source),
            _ => Self::Database(source),
        }
    }
}

fn constraint_of(error: &sqlx::Error) -> Constraint {
    let name = match error {
        sqlx::Error::Database(error) => error.downcast_ref::<PgDatabaseError>().constraint(),
        _ => None,
    };
    Constraint::named(name.unwrap_or_default())
}

/// Fails unless exactly this many rows were changed.
pub(crate) fn expect_rows(operation: &'static str, expected: u64, actual: u64) -> Result<(), Error> {
    if actual == expected { Ok(()) } else { Err(Error::RowCount { operation, expected, actual }) }
}
