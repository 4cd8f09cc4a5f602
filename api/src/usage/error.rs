//! Failures of usage.

use ledger::Month;
use nats::PublishError;

/// Reason why a month's counters do not start anew.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The month is closed.
    #[error("the month {0} is closed: its statement has been issued")]
    Closed(Month),
    /// The reset is not in the log, as far as anybody knows.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The database is away, or refuses.
    #[error("whether the month is closed cannot be read")]
    Store(#[from] store::Error),
}
