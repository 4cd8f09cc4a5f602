//! Errors of starting and stopping private servers.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why a private server could not be started or stopped; each message is one line that says what to do.
#[derive(Debug, Error)]
pub enum StartError {
    /// A program is missing or too old.
    #[error("{program} {needed} or later not found; run scripts/setup, or set {variable} to where it is")]
    ProgramNotFound {
        /// The program's name.
        program: &'static str,
        /// The lowest version that works.
        needed: &'static str,
        /// The environment variable that names its place.
        variable: &'static str,
    },
    /// The variable names something else.
    #[error("NATS_SERVER_BIN names {}, which is no nats-server 2.14 or later; correct it, or unset it to have one looked for on PATH", .0.display())]
    NotNatsServer(PathBuf),
    /// Another process holds the data directory.
    #[error("{} is in use by another running usage-ledger; stop it or give another --data-dir", .0.display())]
    InUse(PathBuf),
    /// The file of a secret does not hold one.
    #[error("{} does not hold 64 hexadecimal digits; restore it, or remove it together with all that needs it", .0.display())]
    NotASecret(PathBuf),
    /// The server exited or did not answer in time.
    #[error("{server} did not start: {reason} (its log: {})", .log.display())]
    DidNotStart {
        /// The server's name.
        server: &'static str,
        /// Its last words, or that it did not answer.
        reason: String,
        /// Its log file.
        log: PathBuf,
    },
    /// Setting up the database cluster failed.
    #[error("initdb failed: {0}")]
    InitDb(String),
    /// The system refused something.
    #[error("{action}")]
    Io {
        /// The attempt, as "cannot …".
        action: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// PostgreSQL runs but refused a statement.
    #[error("the private PostgreSQL refused a statement")]
    Sql(#[source] sqlx::Error),
}

impl StartError {
    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io { action: action.into(), source }
    }
}
