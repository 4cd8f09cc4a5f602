//! Reasons for which nothing can be decided.

/// Reason for which this process may not decide now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// The projection has not reached what was in the log when this process took the lock.
    #[error("the projection is behind what was admitted before this process started")]
    CatchingUp,
    /// The database is away, and with it the lock and the counts.
    #[error("the database is away")]
    Database,
    /// The process is ending.
    #[error("this process is ending")]
    Stopping,
}

/// Reason for which nothing can be decided now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// This process may not decide (yet).
    #[error(transparent)]
    Unready(#[from] Unready),
    /// The user's counts cannot be read.
    #[error("the counts of this user cannot be read")]
    Unreadable,
    /// Too many units are admitted and not projected.
    #[error(
        "{units} admitted units are not projected yet (MAX_UNPROJECTED); the worker is behind or stopped"
    )]
    Behind {
        /// Units admitted and not projected.
        units: u64,
    },
}
