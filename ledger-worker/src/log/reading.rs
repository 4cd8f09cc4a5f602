//! Reading ahead: while one batch is applied, the next one is read, checked for continuity, parsed and prepared.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use keys::{Keys, KeysError};
use ledger::Month;
use nats::{AcceptedGap, Continuity, Log, ProducerState, RawFrame, ReadError, Reader, Stop, Verdict};
use sqlx::{PgConnection, PgPool};
use store::Position;
use store::producers::{self, Producer};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::batch::{Item, KnownKeys, Parsed, Segment};

/// Frames that are ready to be applied.
#[derive(Debug, Default)]
pub struct Batch {
    /// Their events.
    pub parsed: Parsed,
    /// What those need.
    pub segments: Vec<Segment>,
    /// The producers' last frames.
    pub producers: Vec<Producer>,
    /// The months of their calls.
    pub months: BTreeSet<Month>,
    /// The last sequence.
    pub last_seq: u64,
    /// The id of the frame there, empty if there is none.
    pub frame_id: String,
    /// When that frame was stored.
    pub frame_time: Option<DateTime<Utc>>,
    /// Frames that the stream held behind it when it was read.
    pub backlog_frames: u64,
}

/// Why frames that are whole make no batch. Nothing of them is projected.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The log is one of a build whose logs are not read.
    #[error(
        "frame {seq} is of a build before the first release, which kept addresses in the clear; start with a new log \
         (NATS_STREAM, or another --data-dir)"
    )]
    EarlierBuild {
        /// The first such frame.
        seq: u64,
    },
    /// An event of a user's audit chain cannot be read. Passed over, the chain would be broken for ever.
    #[error("the event {position} of a user's audit chain cannot be read: {detail}")]
    BrokenLink {
        /// Where in the log it is.
        position: Position,
        /// What is wrong with it.
        detail: String,
    },
    /// What calls hold cannot be opened: left out for want of a key, it would be lost.
    #[error("the calls' sealed fields cannot be opened")]
    Keys(#[from] KeysError),
}

impl Batch {
    /// Parses and prepares `frames`, those to apply of a range that ends with `last`, beside other work. Keys that are
    /// not remembered are read from the database.
    pub async fn read(
        frames: Vec<RawFrame>,
        last: RawFrame,
        keys: &Keys,
        pool: &PgPool,
    ) -> Result<Self, BatchError> {
        let (mut frames, mut last, mut known) = (frames, last, KnownKeys::of(keys));
        loop {
            let parsing = tokio::task::spawn_blocking(move || {
                let batch = Self::of(&frames, &last, &known);
                (batch, frames, last, known)
            });
            let batch = match parsing.await {
                Ok(parsed) => {
                    let batch;
                    (batch, frames, last, known) = parsed;
                    batch
                }
                // Only at shutdown, or if parsing panicked: then it is to be seen, not passed over.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            if let Some(seq) = batch.parsed.earlier_build() {
                return Err(BatchError::EarlierBuild { seq });
            }
            if let Some((position, detail)) = batch.parsed.broken_link() {
                return Err(BatchError::BrokenLink { position, detail: detail.to_owned() });
            }
            let unknown = batch.parsed.unknown_keys();
            if unknown.is_empty() {
                batch.parsed.report_unreadable();
                return Ok(batch);
            }
            let mut conn =
                pool.acquire().await.map_err(|error| KeysError::from(store::Error::from(error)))?;
            known.look_up(&mut conn, &unknown).await?;
        }
    }

    /// Parses and prepares `frames` with the keys that are at hand. Pure, and busy for some milliseconds.
    pub fn of(frames: &[RawFrame], last: &RawFrame, keys: &KnownKeys) -> Self {
        let parsed = Parsed::of(frames, keys);
        let mut latest = HashMap::new();
        for frame in frames {
            if let Ok(header) = &frame.header {
                let (last_n, last_crc) = (header.n, header.crc32c);
                latest.insert(
                    header.producer,
                    Producer { id: header.producer, last_n, last_crc, last_seq: frame.seq },
                );
            }
        }
        let mut producers: Vec<Producer> = latest.into_values().collect();
        producers.sort_unstable_by_key(|producer| producer.id);
        let mut batch = Self {
            parsed,
            producers,
            last_seq: last.seq,
            frame_id: last.msg_id.clone(),
            frame_time: Some(last.time),
            ..Self::default()
        };
        batch.prepare();
        batch
    }

    /// No frames: the range up to `last_seq` is an accepted gap.
    pub fn gap(last_seq: u64) -> Self {
        Self { last_seq, ..Self::default() }
    }

    /// Makes the batch's events ready, again if some of them were turned into dead letters.
    pub fn prepare(&mut self) {
        self.segments = Segment::all(&self.parsed);
        self.months = self.parsed.items().iter().filter_map(Item::month).collect();
    }
}

/// What reading came to.
#[derive(Debug)]
pub(crate) enum Read {
    /// Frames to apply.
    Batch(Box<Batch>),
    /// Nothing new within the idle time; everything that is there was handed on.
    Idle,
    /// The log can't be trusted from here on.
    Stopped(Stop),
    /// What was read makes no batch.
    Halted(BatchError),
    /// The connection to the log was made anew: the checkpoint is to be compared with the stream.
    Reconnected,
    /// The log is away.
    Unavailable(nats::LogError),
}

/// The continuity of a log up to `last_seq`, as the database has it.
pub async fn continuity(
    conn: &mut PgConnection,
    log: &Log,
    last_seq: u64,
) -> Result<Continuity, store::Error> {
    let known = producers::all(conn).await?;
    let states: HashMap<Uuid, ProducerState> = known
        .into_iter()
        .map(|p| (p.id, ProducerState { n: p.last_n, crc32c: p.last_crc, seq: p.last_seq }))
        .collect();
    let accepted = accepted_gaps(conn, log).await?;
    Ok(Continuity::new(log.stream().clone(), last_seq, states, accepted))
}

/// The gaps of a log that operators accepted.
pub async fn accepted_gaps(conn: &mut PgConnection, log: &Log) -> Result<Vec<AcceptedGap>, store::Error> {
    let gaps = store::gaps::all(conn, log.stream().as_str()).await?;
    Ok(gaps.into_iter().map(|gap| AcceptedGap { seqs: gap.seq_from..=gap.seq_to, kind: gap.kind }).collect())
}

/// Reads ahead until the receiver is gone or the log has to be looked at anew.
pub(crate) struct Reading {
    pub(crate) log: Log,
    pub(crate) reader: Reader,
    pub(crate) continuity: Continuity,
    /// What opens the calls' sealed fields.
    pub(crate) keys: Keys,
    pub(crate) pool: PgPool,
    pub(crate) max_events: usize,
    /// The stream's last sequence before the wait that is under way.
    pub(crate) tail: Option<u64>,
}

impl Reading {
    pub(crate) async fn run(mut self, to: mpsc::Sender<Read>) {
        loop {
            // The place is taken first, so that no more than one batch waits beside the one that is applied.
            let Ok(permit) = to.reserve().await else { return };
            let (read, then) = self.next().await;
            let over = !matches!(read, Read::Batch(_) | Read::Idle);
            permit.send(read);
            if let Some(stop) = then {
                // When the receiver is gone nobody needs to know.
                let _ = to.send(Read::Stopped(stop)).await;
                return;
            }
            if over {
                return;
            }
        }
    }

    async fn next(&mut self) -> (Read, Option<Stop>) {
        let frames = match self.reader.next_batch(self.max_events).await {
            Ok(frames) => frames,
            Err(ReadError::Reconnected) => return (Read::Reconnected, None),
            Err(ReadError::Unavailable { source }) => return (Read::Unavailable(source), None),
        };
        if frames.is_empty() {
            return (self.idle().await, None);
        }
        self.tail = None;
        let backlog_frames = self.reader.pending();
        let (apply, last, stop) = self.judge(frames);
        match (last, stop) {
            (Some(last), stop) => match Batch::read(apply, last, &self.keys, &self.pool).await {
                Ok(batch) => (Read::Batch(Box::new(Batch { backlog_frames, ..batch })), stop),
                Err(error) => (Read::Halted(error), None),
            },
            (None, Some(stop)) => (Read::Stopped(stop), None),
            (None, None) => (Read::Idle, None),
        }
    }

    /// Splits off the frames up to the first one that may not be passed; answers those to apply and the last passed.
    fn judge(&mut self, mut frames: Vec<RawFrame>) -> (Vec<RawFrame>, Option<RawFrame>, Option<Stop>) {
        let mut passed = Vec::with_capacity(frames.len());
        let mut stopped = None;
        for frame in &frames {
            match self.continuity.check(frame) {
                Verdict::Apply(_) => passed.push(true),
                Verdict::SkipDuplicate | Verdict::SkipAccepted => passed.push(false),
                Verdict::Stop(stop) => {
                    stopped = Some(self.continuity.name_jumps(stop, &frames[passed.len()..]));
                    break;
                }
            }
        }
        frames.truncate(passed.len());
        let last = frames.last().cloned();
        let mut apply = passed.into_iter();
        frames.retain(|_| apply.next().unwrap_or(false));
        (frames, last, stopped)
    }

    /// Nothing came: is something missing at the end? What the stream said before the wait must have come by now.
    async fn idle(&mut self) -> Read {
        if let Some(tail) = self.tail.take() {
            match self.continuity.check_tail(tail) {
                Ok(true) => return Read::Batch(Box::new(Batch::gap(tail))),
                Ok(false) => {}
                Err(stop) => return Read::Stopped(stop),
            }
        }
        match self.log.state().await {
            Ok(state) => {
                self.tail = Some(state.last_seq);
                Read::Idle
            }
            Err(error) => Read::Unavailable(error),
        }
    }
}
