//! The projector: one active worker that applies batch after batch, each in one transaction.

use std::time::Duration;

use data_keys::{Keys, KeysError};
use nats::{Continuity, Log, Reader, ReaderConfig, Stop};
use sqlx::{Connection, PgConnection, PgPool};
use store::Schema;
use store::operations::gaps;
use store::operations::lock_holders::{self, Attempt, Vigil};
use store::operations::projector_status::State;
use store::operations::session_locks::Lock;
use store::projection::checkpoint::{self, Checkpoint, PARTITION};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::batch::{Applier, ApplyError, Batch, BatchError, Landed, Pipeline};
use crate::config::WorkerConfig;
use crate::erasures;
use crate::error::{SessionError, chain};
use crate::log::{LogCheck, Read, Reading, continuity};
use crate::rollover::LastRows;
use crate::second::Second;
use crate::status::Status;
use crate::thresholds::Signal;

/// Time after which a stopped projector looks at the log again, and one that is not active tries to become it.
const RECHECK: Duration = Duration::from_millis(500);
/// The longest pause after an error.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// So many frames behind the last one read are a backlog; a few are on their way at any time.
const BACKLOG_FRAMES: u64 = 100;
/// The longest that frames gather before they are applied.
const MAX_PACE: Duration = Duration::from_millis(100);

/// Time that the database has for one step of a session beside its batches: to ask for the lock, to say that it is
/// alive, to say goodbye.
const STEP_WITHIN: Duration = Duration::from_secs(5);
/// Time that it has for a batch, also one that waits for a rebuild's comparison. Beyond that the connection is given
/// up: the next one finds in the checkpoint whether the batch was applied.
const APPLY_WITHIN: Duration = Duration::from_mins(1);

/// The worker's projector.
pub(crate) struct Projector {
    /// This process, among those that hold locks.
    pub(crate) instance: Uuid,
    pub(crate) config: WorkerConfig,
    pub(crate) log: Log,
    pub(crate) keys: Keys,
    /// Connections for the data keys that are not remembered.
    pub(crate) pool: PgPool,
    pub(crate) status: Status,
    pub(crate) signal: Signal,
    pub(crate) erasures: erasures::Signal,
    pub(crate) last_rows: LastRows,
}

/// End of following the log.
enum End {
    /// The worker is to end.
    Shutdown,
    /// The checkpoint is to be compared with the stream again.
    Again,
    /// The log can't be trusted, or not be projected.
    Stopped(Halt),
}

/// Reason to project nothing from here on until it is gone.
#[derive(Debug, thiserror::Error)]
enum Halt {
    /// The log is not whole.
    #[error(transparent)]
    Log(#[from] Stop),
    /// Its frames make no batch.
    #[error(transparent)]
    Batch(BatchError),
    /// An event that is not to be passed over cannot be applied.
    #[error(transparent)]
    BrokenLink(ApplyError),
}

impl Halt {
    /// The reason in one line, for the status.
    fn reason(&self) -> String {
        match self {
            // It names every producer that misses frames, however many.
            Self::Log(stop) => stop.to_string(),
            Self::Batch(_) | Self::BrokenLink(_) => chain(self),
        }
    }
}

impl Projector {
    /// Projects until the worker ends. Whatever happens to database or log, it begins again.
    pub(crate) async fn run(&self, shutdown: &CancellationToken) {
        let mut pause = RECHECK / 2;
        while !shutdown.is_cancelled() {
            let began = tokio::time::Instant::now();
            let Err(error) = self.session(shutdown).await else { return };
            self.status.set(State::Retrying, Some(chain(&error)));
            pause = if began.elapsed() > MAX_PAUSE { RECHECK / 2 } else { (pause * 2).min(MAX_PAUSE) };
            wait(pause, shutdown).await;
        }
    }

    /// One connection to the database, and as long as it holds, the right to project.
    async fn session(&self, shutdown: &CancellationToken) -> Result<(), SessionError> {
        let mut conn = store::connect::connect_projector(&self.config.database_url, Schema::Live).await?;
        let mut vigil = Vigil::default();
        while !self.is_turn(&mut conn, &mut vigil).await? {
            self.status.set(State::Standby, None);
            wait(RECHECK, shutdown).await;
            if shutdown.is_cancelled() {
                return Ok(());
            }
        }
        while !shutdown.is_cancelled() {
            let (end, back) = self.follow(conn, shutdown).await?;
            conn = back;
            match end {
                End::Shutdown => break,
                End::Again => {}
                End::Stopped(halt) => {
                    self.status.set(State::Stopped, Some(halt.reason()));
                    wait(RECHECK, shutdown).await;
                }
            }
        }
        // The lock goes with the connection; whoever waits for it need not wait for a timeout.
        let closing = async { Ok(conn.close().await.map_err(store::Error::from)?) };
        store::within("ending the session", STEP_WITHIN, closing).await
    }

    /// Asks for the right to project. Before it was this worker's in an earlier session that has stalled, or while the
    /// active worker is silent, that session is ended: what it still tries to commit fails.
    async fn is_turn(&self, conn: &mut PgConnection, vigil: &mut Vigil) -> Result<bool, SessionError> {
        let lock = Lock::Projector(PARTITION);
        let asking = lock_holders::try_take(conn, lock, self.instance, vigil);
        let attempt = store::within("asking for the projector's lock", STEP_WITHIN, asking).await?;
        Ok(matches!(attempt, Attempt::Taken(_)))
    }

    /// Applies what the log holds after the checkpoint, as it comes. Gives the connection back.
    async fn follow(
        &self,
        mut conn: PgConnection,
        shutdown: &CancellationToken,
    ) -> Result<(End, PgConnection), SessionError> {
        // The lock is held: whatever an earlier worker projected is in the checkpoint.
        let state = self.log.state().await?;
        let starting = self.check_start(&mut conn, &state);
        let mut checkpoint = match store::within("reading the checkpoint", APPLY_WITHIN, starting).await? {
            Ok(checkpoint) => checkpoint,
            Err(stop) => return Ok((End::Stopped(stop.into()), conn)),
        };
        checkpoint.stream_created = Some(state.created);
        let seq = checkpoint.seq;
        self.status.projected(seq);
        if self.status.state() != State::Stopped {
            self.status.set(State::Running, None);
        }
        let reading = continuity(&mut conn, &self.log, seq);
        let continuity = store::within("reading the producers", APPLY_WITHIN, reading).await?;
        let (_reader, mut from) = self.read_ahead(seq + 1, continuity);
        if seq >= state.last_seq {
            self.status.set_caught_up();
        }
        let applier = Applier::new(Schema::Live, PARTITION, checkpoint);
        let mut pipeline = Pipeline::new(conn, applier);
        let end = self.project(&mut pipeline, &mut from, state.last_seq, shutdown).await?;
        // Another one would have to ask for the lock.
        pipeline.into_main().map(|conn| (end, conn)).ok_or(SessionError::Lost)
    }

    /// Applies batch after batch. While there is a backlog the next one is taken before one is done.
    async fn project(
        &self,
        pipeline: &mut Pipeline,
        from: &mut mpsc::Receiver<Read>,
        caught_up_at: u64,
        shutdown: &CancellationToken,
    ) -> Result<End, SessionError> {
        let mut second = Second::new(&self.config.database_url, self.instance);
        let (mut held, mut is_behind, mut pause) = (None, false, Duration::ZERO);
        loop {
            let read = if pipeline.is_idle() {
                if shutdown.is_cancelled() {
                    return Ok(End::Shutdown);
                }
                if let Some(read) = held.take() {
                    read
                } else {
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return Ok(End::Shutdown),
                        read = async { tokio::time::sleep(pause).await; from.recv().await } => read,
                    }
                }
            } else {
                let looks =
                    is_behind && held.is_none() && pipeline.takes_another() && !shutdown.is_cancelled();
                let waiting = async { Ok::<_, store::Error>(pipeline.next().await) };
                tokio::select! {
                    biased;
                    flown = store::within("applying a batch", APPLY_WITHIN, waiting) => {
                        match pipeline.settle(flown?).await {
                            Ok(landed) => pause = self.applied(landed, caught_up_at),
                            Err(error) => return failed(error),
                        }
                        continue;
                    }
                    read = from.recv(), if looks => match read {
                        Some(Read::Batch(batch)) if pipeline.fits(&batch) => Some(Read::Batch(batch)),
                        other => {
                            held = Some(other);
                            continue;
                        }
                    }
                }
            };
            match read {
                Some(Read::Batch(batch)) => {
                    is_behind = self.is_behind(&batch);
                    if is_behind {
                        second.open(pipeline);
                    }
                    pipeline.start(batch);
                }
                Some(Read::Idle) => {
                    second.close(pipeline);
                    self.look_at_session(pipeline).await?;
                }
                Some(Read::Stopped(stop)) => return Ok(End::Stopped(stop.into())),
                Some(Read::Halted(BatchError::Keys(KeysError::Store(error)))) => return Err(error.into()),
                Some(Read::Halted(error)) => return Ok(End::Stopped(Halt::Batch(error))),
                Some(Read::Unavailable(error)) => return Err(error.into()),
                Some(Read::Reconnected) | None => return Ok(End::Again),
            }
        }
    }

    /// Nothing is to be done: a standby may have ended this session while the process stood still.
    async fn look_at_session(&self, pipeline: &mut Pipeline) -> Result<(), SessionError> {
        let pinging = async {
            match pipeline.main() {
                Some(conn) => conn.ping().await.map_err(|error| store::Error::from(error).into()),
                None => Err(SessionError::Lost),
            }
        };
        store::within("looking at the session", STEP_WITHIN, pinging).await?;
        self.status.set(State::Running, None);
        Ok(())
    }

    /// Time to let frames gather after a batch. What a transaction costs is mostly one upsert a user and table, and
    /// its own round trips: at a few dozen events each, the projector takes a core from those who are answering calls.
    /// A pause in proportion to the work leaves that core to them and lets the next batch share its upserts. A lone
    /// event is still applied at once, a full batch or a backlog is followed without a pause, and nobody waits longer
    /// than [`MAX_PACE`].
    fn pace(&self, busy: Duration, batch: &Batch) -> Duration {
        if self.is_behind(batch) { Duration::ZERO } else { (busy * 2).min(MAX_PACE) }
    }

    /// Whether what is behind the batch is not waited for.
    fn is_behind(&self, batch: &Batch) -> bool {
        let is_full = usize::try_from(batch.parsed.events())
            .map_or(true, |events| events >= self.config.max_batch_events / 4);
        is_full || batch.backlog_frames > BACKLOG_FRAMES
    }

    /// Starts reading; dropping the set ends it.
    fn read_ahead(&self, from_seq: u64, continuity: Continuity) -> (JoinSet<()>, mpsc::Receiver<Read>) {
        let reading = Reading {
            log: self.log.clone(),
            reader: Reader::open(&self.log, from_seq, ReaderConfig::default()),
            continuity,
            keys: self.keys.clone(),
            pool: self.pool.clone(),
            max_events: self.config.max_batch_events,
            tail: None,
        };
        let (to, from) = mpsc::channel(1);
        let mut reader = JoinSet::new();
        reader.spawn(reading.run(to));
        (reader, from)
    }

    /// Tells what a batch brought, and answers how long frames may gather now.
    fn applied(&self, landed: Landed, caught_up_at: u64) -> Duration {
        let Landed { batch, applied, checkpoint, busy } = landed;
        self.status.projected(checkpoint.seq);
        self.status.set(State::Running, None);
        if checkpoint.seq >= caught_up_at {
            self.status.set_caught_up();
        }
        metrics::counter!("ledger_projected_events_total").increment(batch.parsed.events());
        if applied.is_ahead {
            metrics::counter!("ledger_projected_ahead_events_total").increment(batch.parsed.events());
        }
        if applied.dead > 0 {
            tracing::warn!(
                dead_letters = applied.dead,
                last_seq = checkpoint.seq,
                "events could not be applied; see `usage-ledger dead-letters list`"
            );
        }
        if !applied.crossed.is_empty() {
            self.signal.look();
        }
        if !applied.months.is_empty() {
            self.last_rows.came(applied.months, self.config.clock.now());
        }
        if !applied.erased.is_empty() {
            self.erasures.look();
        }
        self.pace(busy, &batch)
    }

    /// Compares the stored checkpoint with the stream. An accepted truncation takes it back to where the log ended.
    async fn check_start(
        &self,
        conn: &mut PgConnection,
        state: &nats::StreamState,
    ) -> Result<Result<Checkpoint, Stop>, SessionError> {
        let checkpoint = checkpoint::read(conn, PARTITION).await?;
        match LogCheck::of::<SessionError>(conn, &self.log, &checkpoint, state).await? {
            LogCheck::Same => Ok(Ok(checkpoint)),
            LogCheck::Lost { whole_to, .. } => self.rewind(conn, checkpoint, whole_to).await.map(Ok),
            LogCheck::Other(stop) => Ok(Err(stop)),
        }
    }

    async fn rewind(
        &self,
        conn: &mut PgConnection,
        from: Checkpoint,
        seq: u64,
    ) -> Result<Checkpoint, SessionError> {
        let frame = self.log.frame_at(seq).await?;
        let to = Checkpoint {
            seq,
            frame_id: frame.as_ref().map(|frame| frame.msg_id.clone()).unwrap_or_default(),
            frame_time: frame.map(|frame| frame.time),
            ..from
        };
        let mut tx = conn.begin().await.map_err(store::Error::from)?;
        // Other frames will stand where they were; retried, these would be mistaken for them.
        store::projection::dead_letters::forget_after(&mut tx, seq).await?;
        gaps::spend(&mut tx, self.log.stream().as_str(), &from).await?;
        checkpoint::advance(&mut tx, Schema::Live, PARTITION, from.seq, &to).await?;
        tx.commit().await.map_err(store::Error::from)?;
        tracing::warn!(
            from_seq = from.seq,
            to_seq = seq,
            "the log's lost tail was accepted; projecting what follows. What was projected from the lost frames stays \
             until `usage-ledger rebuild`"
        );
        Ok(to)
    }
}

/// The end that a batch's failure is.
fn failed(error: ApplyError) -> Result<End, SessionError> {
    match error {
        // A rebuild exchanged the tables, or somebody else is at work: the tables say where to go on.
        ApplyError::Store(error @ store::Error::CheckpointMoved { .. }) => {
            tracing::warn!(error = chain(&error), "reading goes on from the stored checkpoint");
            Ok(End::Again)
        }
        ApplyError::Store(error) => Err(error.into()),
        error @ ApplyError::BrokenLink { .. } => Ok(End::Stopped(Halt::BrokenLink(error))),
    }
}

async fn wait(pause: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = shutdown.cancelled() => {}
    }
}
