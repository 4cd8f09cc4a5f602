//! Frames up to a fixed sequence, each proven to follow the one before.

use std::ops::ControlFlow;
use std::time::Duration;

use nats::{Continuity, Log, LogError, RawFrame, ReadError, Reader, ReaderConfig, Stop, Verdict};
use tokio::sync::mpsc;

/// The most events that are read at a time.
pub(crate) const READ_EVENTS: usize = 20_000;
/// Times that a log that does not answer is asked again before the work ends; it goes on there when started again.
const MAX_FAILURES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(1);
/// Hand-overs to the thread that takes the frames that may wait.
const WAITING_CHUNKS: usize = 2;

/// Failure to read the log up to a target.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AheadError {
    /// The log is not whole.
    #[error(transparent)]
    Stopped(Stop),
    /// The log is away.
    #[error("the log cannot be read")]
    Log(#[from] LogError),
}

/// Frames that follow each other.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Those to apply.
    pub(crate) frames: Vec<RawFrame>,
    /// The last frame, applied or passed; none when the range ends in an accepted gap.
    pub(crate) last: Option<RawFrame>,
    /// The last sequence.
    pub(crate) last_seq: u64,
}

/// Gives `take` every frame up to `target`, in order, or until it takes no more: this task reads and checks, a thread
/// of its own takes. `tell` hears how far it is: the last sequence, and the number of events up to it. Answers what
/// `state` became, and what is known of the log then.
pub(crate) async fn each_frame<T: Send + 'static>(
    log: &Log,
    continuity: Continuity,
    target: u64,
    mut state: T,
    take: fn(&mut T, &RawFrame) -> ControlFlow<()>,
    tell: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(T, Continuity), AheadError> {
    let mut ahead = Ahead::new(log, continuity, target);
    let (to, mut from) = mpsc::channel::<Vec<RawFrame>>(WAITING_CHUNKS);
    let taking = tokio::task::spawn_blocking(move || {
        while let Some(frames) = from.blocking_recv() {
            if frames.iter().try_for_each(|frame| take(&mut state, frame)).is_break() {
                break;
            }
        }
        state
    });
    let mut events = 0;
    let read = loop {
        match ahead.next().await {
            Ok(Some(chunk)) => {
                events += chunk.frames.iter().map(|frame| frame.count() as u64).sum::<u64>();
                tell(chunk.last_seq, events);
                if to.send(chunk.frames).await.is_err() {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    drop(to);
    let state = match taking.await {
        Ok(state) => state,
        // Only at shutdown, or if taking panicked: then it is to be seen, not passed over.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    read?;
    Ok((state, ahead.into_continuity()))
}

/// Reads the log up to `target`.
#[derive(Debug)]
pub(crate) struct Ahead {
    log: Log,
    reader: Reader,
    continuity: Continuity,
    target: u64,
    failures: u32,
}

impl Ahead {
    pub(crate) fn new(log: &Log, continuity: Continuity, target: u64) -> Self {
        let reader = Reader::open(log, continuity.last_seq() + 1, ReaderConfig::default());
        Self { log: log.clone(), reader, continuity, target, failures: 0 }
    }

    /// The continuity of the log so far.
    fn into_continuity(self) -> Continuity {
        self.continuity
    }

    /// The next frames; `None` at the target.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, AheadError> {
        while self.continuity.last_seq() < self.target {
            let frames = match self.reader.next_batch(READ_EVENTS).await {
                Ok(frames) => frames,
                Err(ReadError::Reconnected) => {
                    self.failures += 1;
                    continue;
                }
                Err(ReadError::Unavailable { source }) => {
                    self.failures += 1;
                    if self.failures > MAX_FAILURES {
                        return Err(source.into());
                    }
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            self.failures = 0;
            if let Some(chunk) = self.judge(frames).await? {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    async fn judge(&mut self, frames: Vec<RawFrame>) -> Result<Option<Chunk>, AheadError> {
        let past_target = frames.iter().any(|frame| frame.seq > self.target);
        let within: Vec<RawFrame> = frames.into_iter().filter(|frame| frame.seq <= self.target).collect();
        let (mut apply, mut last) = (Vec::with_capacity(within.len()), None);
        for (index, frame) in within.iter().enumerate() {
            match self.continuity.check(frame) {
                Verdict::Apply(_) => apply.push(frame.clone()),
                Verdict::SkipDuplicate | Verdict::SkipAccepted => {}
                Verdict::Stop(stop) => {
                    return Err(AheadError::Stopped(self.continuity.name_jumps(stop, &within[index..])));
                }
            }
            last = Some(frame.clone());
        }
        if last.is_some() {
            let last_seq = self.continuity.last_seq();
            return Ok(Some(Chunk { frames: apply, last, last_seq }));
        }
        // What the stream has had since before this wait, or had before a frame that came, is not on its way.
        if past_target || self.reaches_target().await? && self.waited_in_vain().await? {
            self.continuity.check_tail(self.target).map_err(AheadError::Stopped)?;
            return Ok(Some(Chunk { frames: Vec::new(), last: None, last_seq: self.target }));
        }
        Ok(None)
    }

    /// The target was in the log: a stream that ends before it has lost its tail, and waiting would be in vain.
    async fn reaches_target(&self) -> Result<bool, AheadError> {
        let (state, checkpoint) = (self.log.state().await?, self.target);
        if state.last_seq >= checkpoint {
            return Ok(true);
        }
        let (stream, last_seq) = (state.stream, state.last_seq);
        Err(AheadError::Stopped(Stop::StreamTruncated { stream, checkpoint, last_seq }))
    }

    /// Tells whether the frame that is due is really not there.
    async fn waited_in_vain(&self) -> Result<bool, AheadError> {
        Ok(self.log.frame_at(self.continuity.last_seq() + 1).await?.is_none())
    }
}
