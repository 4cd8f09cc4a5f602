//! The worker process.

use std::collections::HashMap;
use std::time::Duration;

use chrono::TimeDelta;
use data_keys::Keys;
use ledger::IdSource;
use nats::{Publisher, PublisherConfig};
use tokio_util::sync::CancellationToken;

use crate::claim_turns::{ClaimTurns, Turner};
use crate::compaction::Compactor;
use crate::config::WorkerConfig;
use crate::dead_letters::Retrier;
use crate::erasures::{self, Erasures};
use crate::error::WorkerError;
use crate::projector::Projector;
use crate::rollover::{Closer, LastRows, Rollover};
use crate::status::Status;
use crate::thresholds::{Reconciler, Signal};

/// Connections beside the projector's own, of which it has a second while it catches up, and that of what is announced:
/// one each for the status, the thresholds, the months' ends, generations of claims, erasures, dead letters, hours,
/// users' keys, and one that is to spare while another is being given up.
const POOL_CONNECTIONS: u32 = 9;

/// Time that connections to PostgreSQL are given to end.
const GOODBYE: Duration = Duration::from_secs(5);

/// Runs a worker until `shutdown`. The batch that is being applied then is finished.
///
/// # Errors
/// Only at the start: when the log can't be reached or trusted, the database's URL can't be read, or the database lets
/// us not in or has no tables. Later failures are told by status and log, and tried again.
pub async fn run(config: WorkerConfig, shutdown: CancellationToken) -> Result<(), WorkerError> {
    // Boxed: a connection being made is larger than all the rest.
    Box::pin(store::check(&config.database_url)).await?;
    let keys = Keys::start(&config.database_url, &config.keys, &config.clock).await?;
    let log = nats::connect(&config.nats).await?;
    log.ensure_stream(config.log_replicas).await?;
    log.verify(config.allow_unsafe_log).await?;
    let pool = store::reconciler_pool(&config.database_url, POOL_CONNECTIONS)?;
    let ids = IdSource::new(config.clock.clone());
    let instance = ids.random_id();
    let producer_ids = ids.clone();
    let publisher =
        Publisher::start(&log, PublisherConfig::default(), move || producer_ids.random_id()).await?;
    let (status, signal, last_rows) = (Status::new(), Signal::default(), LastRows::default());
    let closer = Closer {
        publisher: publisher.clone(),
        ids: ids.clone(),
        clock: config.clock.clone(),
        close_grace: TimeDelta::from_std(config.close_grace).unwrap_or(TimeDelta::MAX),
    };
    let turner = Turner::new(&config, &publisher, &ids);
    let claim_turns = ClaimTurns { turner, pool: pool.clone(), status: status.clone() };
    let rollover =
        Rollover { closer, pool: pool.clone(), status: status.clone(), last_rows: last_rows.clone() };
    let reconciler = Reconciler {
        pool: pool.clone(),
        publisher: publisher.clone(),
        ids,
        clock: config.clock.clone(),
        status: status.clone(),
        signal: signal.clone(),
        published: HashMap::new(),
    };
    let erasures = Erasures {
        pool: pool.clone(),
        keys: keys.clone(),
        clock: config.clock.clone(),
        signal: erasures::Signal::default(),
    };
    let retrier =
        Retrier { pool: pool.clone(), log: log.clone(), keys: keys.clone(), status: status.clone() };
    let compactor = Compactor { pool: pool.clone(), status: status.clone() };
    let projector = Projector {
        instance,
        config,
        log,
        keys: keys.clone(),
        pool: pool.clone(),
        status: status.clone(),
        signal,
        erasures: erasures.signal.clone(),
        last_rows,
    };
    tokio::join!(
        projector.run(&shutdown),
        reconciler.run(&shutdown),
        erasures.run(&shutdown),
        retrier.run(&shutdown),
        compactor.run(&shutdown),
        rollover.run(&shutdown),
        claim_turns.run(&shutdown),
        keys.follow(&pool, &shutdown),
        status.report(&pool, instance, &shutdown),
    );
    publisher.close().await;
    // PostgreSQL needs no goodbye, and a session that is silent would not hear it.
    let _ = tokio::time::timeout(GOODBYE, pool.close()).await;
    Ok(())
}
