//! Settings of a worker.

use std::time::Duration;

use data_keys::KeyConfig;
use ledger::Clock;

/// As long as an event may be late without being a backfill: what is reported again then must be known.
pub const MIN_DEDUPE_HORIZON: Duration = Duration::from_hours(35 * 24);

/// Settings of a worker.
#[derive(Clone)]
pub struct WorkerConfig {
    /// Address of the database; may hold a password.
    pub database_url: String,
    /// Servers and stream of the log.
    pub nats: nats::Connection,
    /// The root keys.
    pub keys: KeyConfig,
    /// Number of copies of the log, when its stream has to be made.
    pub log_replicas: usize,
    /// Starts even if an acknowledgement of the log may not mean "on disk".
    pub allow_unsafe_log: bool,
    /// The ledger's clock.
    pub clock: Clock,
    /// The most events that one transaction applies.
    pub max_batch_events: usize,
    /// Time between a month's end and its closing.
    pub close_grace: Duration,
    /// Time for which the id of an event is remembered at least, by the log's time; [`MIN_DEDUPE_HORIZON`] or more.
    pub dedupe_horizon: Duration,
}

impl WorkerConfig {
    /// A worker between this log and this database, all else as it is best.
    pub fn new(
        database_url: impl Into<String>,
        nats: nats::Connection,
        keys: KeyConfig,
        clock: Clock,
    ) -> Self {
        Self {
            database_url: database_url.into(),
            nats,
            keys,
            log_replicas: 1,
            allow_unsafe_log: false,
            clock,
            max_batch_events: 10_000,
            close_grace: Duration::from_hours(1),
            dedupe_horizon: MIN_DEDUPE_HORIZON,
        }
    }
}
