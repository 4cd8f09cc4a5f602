//! Reasons for which a worker does not start, or its projector has to begin anew.

/// Reason for which a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The encryption keys can't be used.
    #[error(transparent)]
    Keys(#[from] data_keys::KeysError),
    /// The log can't be reached.
    #[error("the log cannot be reached")]
    Connect(#[from] nats::ConnectError),
    /// The log's stream can't be made or asked.
    #[error("the log's stream is not usable")]
    Log(#[from] nats::LogError),
    /// The log may lose what it acknowledged.
    #[error(transparent)]
    Unsafe(#[from] nats::UnsafeLog),
    /// The database's settings can't be used.
    #[error("DATABASE_URL cannot be used")]
    Store(#[from] store::Error),
}

/// Reason for which the projector begins anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The database is away or refuses.
    #[error("the projection cannot be written")]
    Store(#[from] store::Error),
    /// The log is away.
    #[error("the log cannot be read")]
    Log(#[from] nats::LogError),
    /// The session that holds the projector's lock was given up.
    #[error("the session with the database was given up")]
    Lost,
}

/// An error and its causes in one line without control characters, for a status, a dead letter or a log record.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    const MAX_CHARS: usize = 1_000;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        // Transparent wrappers repeat what they wrap.
        if !text.ends_with(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
        cause = error.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_CHARS).collect()
}
