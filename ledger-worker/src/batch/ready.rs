//! A batch that is ready to be applied: its frames parsed, and prepared for the tables.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use data_keys::{Keys, KeysError};
use ledger::Month;
use nats::RawFrame;
use sqlx::PgPool;
use store::projection::producers::Producer;

use super::fault::BrokenLink;
use super::item::Item;
use super::parse::Parsed;
use super::personal::KnownDataKeys;
use super::prepare::Segment;

/// Frames that are ready to be applied.
#[derive(Debug, Default)]
pub struct Batch {
    /// Their events.
    pub parsed: Parsed,
    /// The same, prepared for the tables.
    pub segments: Vec<Segment>,
    /// The producers' last frames.
    pub producers: Vec<Producer>,
    /// The months of their calls.
    pub months: BTreeSet<Month>,
    /// The last sequence.
    pub last_seq: u64,
    /// The id of the frame there, empty if there is none.
    pub frame_id: String,
    /// Time at which that frame was stored.
    pub frame_time: Option<DateTime<Utc>>,
    /// Frames that the stream held behind it when it was read.
    pub backlog_frames: u64,
}

/// Reason for which frames that are whole make no batch. Nothing of them is projected.
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
    /// An event of a user's audit chain cannot be read.
    #[error(transparent)]
    BrokenLink(#[from] BrokenLink),
    /// Sealed fields of calls cannot be opened: left out for want of a data key, they would be lost.
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
        let (mut frames, mut last, mut known) = (frames, last, KnownDataKeys::of(keys));
        loop {
            let parsing = tokio::task::spawn_blocking(move || {
                let batch = Self::of(&frames, &last, &known);
                (batch, frames, last, known)
            });
            let mut batch = match parsing.await {
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
            if let Some(broken) = batch.parsed.take_broken_link() {
                return Err(broken.into());
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
    pub fn of(frames: &[RawFrame], last: &RawFrame, keys: &KnownDataKeys) -> Self {
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
