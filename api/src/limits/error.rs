//! Reasons for which nothing can be decided.

/// Reason for which this process may not decide now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// The projection has not reached what was in the log when this process took the lock.
    #[error("the projection is behind what was admitted before this process started")]
    CatchingUp,
    /// The database is away, or does not answer, and with it the lock and the counts.
    #[error("the database is away")]
    Database,
    /// So many users have calls that are not projected that no other one's call is admitted.
    #[error("too many users have calls that are not projected yet; the worker is behind or stopped")]
    Crowded,
    /// Another api process holds the lock, and decides.
    #[error("another api process decides")]
    Elsewhere,
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
    /// Calls of the user were reported, and no reading contains them yet.
    #[error("reported calls of this user are not projected yet; the worker is behind or stopped")]
    Uncounted,
    /// Too many calls of the user are not projected.
    #[error(
        "{calls} calls of this user are not projected yet (MAX_UNPROJECTED); the worker is behind or stopped"
    )]
    Behind {
        /// Its calls that are not projected.
        calls: u64,
    },
    /// Too many users have calls that are not projected for another one.
    #[error("{users} users have calls that are not projected yet; the worker is behind or stopped")]
    Crowded {
        /// Users with calls that are not projected.
        users: u64,
    },
    /// The reporter's calls are not taken in now: the projection is behind (`MAX_LAG`).
    #[error("the projection is behind the log (MAX_LAG), and the reporter has to wait")]
    Shed {
        /// Seconds after which it may try again.
        retry_after_s: u64,
    },
}
