//! The group-commit publisher.
//!
//! While one frame is in flight the next one fills; it goes out as soon as the acknowledgement is back. There is
//! no timer: at low load a frame holds one event, at high load as many as came during one fsync.
//!
//! The fate of a frame: once sent it never changes. It is sent again with the same id, over reconnects and server
//! restarts, until it is acknowledged (a duplicate is an acknowledgement) or `retry_for` has passed. Then nobody
//! knows whether it is in the log: its callers get [`PublishError::Unknown`], the producer retires (a new id,
//! counting from 1) and the connection is replaced, so that nothing of the old frame is left in a buffer.

mod lease;
mod queue;
mod task;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use events::MAX_EVENT_BYTES;
use tokio::sync::watch;
use uuid::Uuid;

use crate::error::ConnectError;
use crate::frame::{EncodedEvent, MAX_FRAME_BYTES, MAX_FRAME_EVENTS, Position};
use crate::log::Log;
pub use lease::{Lease, Term};
use queue::{Limits, OneTicket, Queue};
use task::Task;

/// Bounds of a publisher.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    /// The most events that may wait for the log, beside those in flight.
    pub queue_events: usize,
    /// The most bytes that may wait for the log, beside those in flight.
    pub queue_bytes: usize,
    /// Time for which a frame is retried. Must stay well inside the stream's duplicate window of 10 minutes.
    pub retry_for: Duration,
    /// Time for which one attempt waits for its acknowledgement before the frame is sent again.
    pub attempt_timeout: Duration,
    /// Time that a frame may wait before what is queued behind it is refused ([`PublishError::Unavailable`]), and so is
    /// what comes, until the log answers again: a caller should hear soon that the log is away.
    pub stall_after: Duration,
}

impl Default for PublisherConfig {
    fn default() -> Self {
        Self {
            queue_events: 40_000,
            queue_bytes: 32 * 1024 * 1024,
            retry_for: Duration::from_mins(1),
            attempt_timeout: Duration::from_secs(2),
            stall_after: Duration::from_secs(5),
        }
    }
}

/// Why an event has no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too many events wait already. Certainly not recorded.
    #[error("too many events wait for the log")]
    QueueFull,
    /// The event is longer than [`MAX_EVENT_BYTES`]. Certainly not recorded.
    #[error("an event of {bytes} bytes is longer than the {MAX_EVENT_BYTES} allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The publisher is shutting down. Certainly not recorded.
    #[error("the publisher is closed")]
    Closed,
    /// The log is away, or a term is over that an event of the frame needs; the event was never sent. Certainly not
    /// recorded.
    #[error("the log is not reachable")]
    Unavailable,
    /// The log acknowledged a sequence that is not beyond an earlier one: it lost acknowledged frames. This
    /// publisher writes no more. The event may have been recorded.
    #[error(
        "the log went backwards: it lost frames that it had acknowledged; nothing is written until a restart"
    )]
    LogWentBackwards,
    /// Nobody knows whether the event is in the log: it may have been recorded.
    #[error("the log did not acknowledge the event in time; it may have been recorded")]
    Unknown,
}

impl PublishError {
    /// Whether the event may be in the log all the same. False is a proof that it is not.
    pub fn may_be_recorded(self) -> bool {
        matches!(self, Self::Unknown | Self::LogWentBackwards)
    }
}

/// Whether a publisher can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublisherState {
    /// It writes, as far as it knows.
    Ready,
    /// The log has not answered for `stall_after`.
    Stalled,
    /// See [`PublishError::LogWentBackwards`].
    LogWentBackwards,
    /// It was closed.
    Closed,
}

/// Writes events to the log. Cheap to clone; when the last clone is dropped, what is queued is still sent.
#[derive(Clone, Debug)]
pub struct Publisher(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    queue: Arc<Queue>,
    /// Its sender is held by the task: an error means that the task has ended.
    ended: watch::Receiver<()>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The position of a submitted event, when its frame is on disk. Dropping it does not take the event back.
#[derive(Debug)]
pub struct Acknowledgement(OneTicket);

impl Future for Acknowledgement {
    type Output = Result<Position, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl Publisher {
    /// Starts a publisher with a connection of its own; `new_producer` makes the ids of its producers.
    pub async fn start(
        log: &Log,
        config: PublisherConfig,
        new_producer: impl Fn() -> Uuid + Send + Sync + 'static,
    ) -> Result<Self, ConnectError> {
        let limits = Limits {
            queue_events: config.queue_events,
            queue_bytes: config.queue_bytes,
            frame_events: MAX_FRAME_EVENTS,
            frame_bytes: MAX_FRAME_BYTES,
        };
        let queue = Arc::new(Queue::new(limits));
        let (alive, ended) = watch::channel(());
        let task = Task::new(log.clone(), config, Arc::clone(&queue), Box::new(new_producer)).await?;
        tokio::spawn(async move {
            task.run().await;
            drop(alive);
        });
        Ok(Self(Arc::new(Handle { queue, ended })))
    }

    /// Writes one event, and answers when its frame is on disk.
    ///
    /// Dropping the future does not take the event back once it was polled.
    pub async fn publish(&self, event: EncodedEvent) -> Result<Position, PublishError> {
        self.0.queue.push(&event, None)?.await
    }

    /// [`Publisher::publish`] in two steps: the event is queued now, and the acknowledgement can be waited for by
    /// somebody else, when the caller itself may be gone by then. In a term of a lease its frame is sent while that
    /// holds, or never ([`PublishError::Unavailable`]); one whose fate is open when the term ends is not sent again
    /// ([`PublishError::Unknown`]).
    pub fn submit(&self, event: &EncodedEvent, term: Option<&Term>) -> Result<Acknowledgement, PublishError> {
        self.0.queue.push(event, term).map(Acknowledgement)
    }

    /// Writes events that follow each other in the log, in as many frames as they need, and answers when all of
    /// them are on disk. On `QueueFull`, `TooLarge`, `Closed` and `Unavailable` none of them is.
    pub async fn publish_all(&self, events: Vec<EncodedEvent>) -> Result<Vec<Position>, PublishError> {
        let tickets = self.0.queue.push_all(&events)?;
        let mut positions = Vec::with_capacity(events.len());
        let mut failed = None;
        for ticket in tickets {
            match ticket.whole().await {
                Ok(part) => positions.extend(part),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None => Ok(positions),
            Some(error) if positions.is_empty() => Err(error),
            Some(_) => Err(PublishError::Unknown),
        }
    }

    /// Hands over an event without waiting for the log. False: it was dropped, since the queue is full or the log
    /// away.
    pub fn offer(&self, event: &EncodedEvent) -> bool {
        self.0.queue.offer(event).is_ok()
    }

    /// The highest sequence acknowledged so far, 0 before the first.
    pub fn last_acked(&self) -> u64 {
        self.0.queue.last_acked()
    }

    /// Bytes of all frames acknowledged so far. Those of [`Publisher::last_acked`] are among them.
    pub fn acked_bytes(&self) -> u64 {
        self.0.queue.acked_bytes()
    }

    /// Whether it can write.
    pub fn state(&self) -> PublisherState {
        self.0.queue.state()
    }

    /// Takes no more events, and waits until the fate of all queued ones is known.
    pub async fn close(&self) {
        self.0.queue.close();
        let mut ended = self.0.ended.clone();
        // Nothing is ever sent: the only thing that comes is the end of the task.
        while ended.changed().await.is_ok() {}
    }
}
