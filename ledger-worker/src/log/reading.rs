//! Reading ahead: while one batch is applied, the next one is read, checked for continuity, parsed and prepared.

use std::time::Duration;

use data_keys::{Keys, KeysError};
use nats::{Continuity, Log, RawFrame, ReadError, Reader, Stop, Verdict};
use sqlx::PgPool;
use tokio::sync::mpsc;

use crate::batch::{Batch, BatchError};

/// Time to make a batch of frames, the database's included.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// One result of reading.
#[derive(Debug)]
pub(crate) enum Read {
    /// Frames to apply.
    Batch(Box<Batch>),
    /// Nothing new within the idle time; everything that is there was handed on.
    Idle,
    /// The log can't be trusted from here on.
    Stopped(Stop),
    /// The frames that were read make no batch.
    Halted(BatchError),
    /// The connection to the log was made anew: the checkpoint is to be compared with the stream.
    Reconnected,
    /// The log is away.
    Unavailable(nats::LogError),
}

/// Reads ahead until the receiver is gone or the log has to be looked at anew.
pub(crate) struct Reading {
    pub(crate) log: Log,
    pub(crate) reader: Reader,
    pub(crate) continuity: Continuity,
    /// Users' data keys, which open the calls' sealed fields.
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
            (Some(last), stop) => match self.read(apply, last).await {
                Ok(batch) => (Read::Batch(Box::new(Batch { backlog_frames, ..batch })), stop),
                Err(error) => (Read::Halted(error), None),
            },
            (None, Some(stop)) => (Read::Stopped(stop), None),
            (None, None) => (Read::Idle, None),
        }
    }

    /// Makes a batch of the frames. The keys that it needs may have to be read from the database.
    async fn read(&self, frames: Vec<RawFrame>, last: RawFrame) -> Result<Batch, BatchError> {
        let reading = Batch::read(frames, last, &self.keys, &self.pool);
        let timed = async { Ok::<_, store::Error>(reading.await) };
        match store::within("reading data keys", READ_WITHIN, timed).await {
            Ok(read) => read,
            Err(error) => Err(KeysError::from(error).into()),
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
