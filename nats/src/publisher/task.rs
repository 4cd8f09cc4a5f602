//! The one task that owns the frame in flight.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::Info;
use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use uuid::Uuid;

use super::queue::{Full, Queue, SharedFate};
use super::{PublishError, PublisherConfig, Term};
use crate::connection::{Link, parse_reply};
use crate::error::{ConnectError, LogError};
use crate::frame::FrameHeader;
use crate::log::{Log, REQUEST_TIMEOUT};

/// The pause before a frame is sent again after a refusal, and the longest it grows to.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_secs(1);

type NewProducer = Box<dyn Fn() -> Uuid + Send + Sync>;

pub(super) struct Task {
    log: Log,
    config: PublisherConfig,
    queue: Arc<Queue>,
    new_producer: NewProducer,
    subject: String,
    wire: Wire,
    producer: Uuid,
    /// The counter of the producer's last frame.
    n: u64,
    /// Fate of the frame in flight, which its callers wait for.
    in_flight: Option<Arc<SharedFate>>,
}

/// A connection with an inbox for acknowledgements.
///
/// The inbox is ours, not the client's shared one, which keeps every request whose reply never comes for ever.
struct Wire {
    link: Link,
    inbox: String,
    acks: Subscriber,
}

/// A frame on its way.
struct Sending {
    header: FrameHeader,
    headers: HeaderMap,
    body: Bytes,
    /// Subject that its acknowledgement comes to, whichever attempt it is for.
    reply: String,
    /// The term in which alone it may be sent.
    term: Option<Term>,
    /// It may be in the log: it was sent, once at least.
    is_tried: bool,
    /// Instant at which callers behind it are refused; None once that has happened.
    stalls_at: Option<Instant>,
    /// Instant at which it is given up.
    ends_at: Instant,
}

/// Result of one attempt.
enum Attempt {
    Acked(PublishAck),
    /// Send it again, after a pause if the server refused it.
    Again {
        refused: bool,
    },
    /// It was never sent, and may not be any more.
    TooLate,
}

impl Task {
    pub(super) async fn new(
        log: Log,
        config: PublisherConfig,
        queue: Arc<Queue>,
        new_producer: NewProducer,
    ) -> Result<Self, ConnectError> {
        let wire = Wire::open(&log).await?;
        let (subject, producer) = (log.subject(), new_producer());
        Ok(Self { log, config, queue, new_producer, subject, wire, producer, n: 0, in_flight: None })
    }

    /// Sends frame after frame until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        while let Some(full) = self.queue.take().await {
            self.in_flight = Some(Arc::clone(&full.fate));
            let (fate, bytes) = (Arc::clone(&full.fate), full.body.len());
            match self.deliver(full).await {
                Ok(ack) if self.is_beyond(&ack, bytes) => {
                    self.queue.resume();
                    fate.decide(Ok(ack.sequence));
                }
                Ok(ack) => self.poison(&fate, &ack),
                Err(error) => {
                    fate.decide(Err(error));
                    if error.may_be_recorded() {
                        self.retire().await;
                    } else {
                        // The log was reached, or nobody waited for long: what comes next is to be tried.
                        self.queue.resume();
                    }
                }
            }
        }
    }

    fn is_beyond(&self, ack: &PublishAck, bytes: usize) -> bool {
        self.queue.acked(ack.sequence, u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    /// One frame is in flight at a time and ids are never used twice, so every frame's sequence is beyond all
    /// earlier ones, a duplicate's too. If not, acknowledged frames are gone.
    fn poison(&self, fate: &SharedFate, ack: &PublishAck) {
        let last_acked = self.queue.last_acked();
        tracing::error!(
            stream = %self.log.stream(), seq = ack.sequence, last_acked, producer = %self.producer, n = self.n,
            "the log went backwards: it lost acknowledged frames; this publisher writes no more"
        );
        self.queue.poison();
        fate.decide(Err(PublishError::LogWentBackwards));
    }

    /// Sends the frame until it is acknowledged.
    ///
    /// # Errors
    /// [`PublishError::Unknown`] when it was given up; [`PublishError::Unavailable`] when its term was over before it
    /// was sent.
    async fn deliver(&mut self, full: Full) -> Result<PublishAck, PublishError> {
        self.n += 1;
        let started = Instant::now();
        let header = FrameHeader::of(self.producer, self.n, u32::from(full.count), &full.body);
        let mut sending = Sending {
            headers: header.to_headers(),
            header,
            reply: format!("{}.{}", self.wire.inbox, self.n),
            body: full.body,
            term: full.term,
            is_tried: false,
            stalls_at: Some(started + self.config.stall_after),
            ends_at: started + self.config.retry_for,
        };
        let mut pause = FIRST_PAUSE;
        loop {
            match self.attempt(&mut sending).await {
                Some(Attempt::Acked(ack)) => {
                    metrics::counter!("ledger_frames_total").increment(1);
                    metrics::histogram!("ledger_ack_seconds").record(started.elapsed());
                    return Ok(ack);
                }
                Some(Attempt::Again { refused }) => {
                    metrics::counter!("ledger_frame_retries_total").increment(1);
                    if refused {
                        let waited = self.until(&mut sending, sleep(pause)).await;
                        waited.ok_or(PublishError::Unknown)?;
                        pause = (pause * 2).min(MAX_PAUSE);
                    }
                }
                Some(Attempt::TooLate) => {
                    // The counter is the next frame's.
                    self.n -= 1;
                    return Err(PublishError::Unavailable);
                }
                None => return Err(PublishError::Unknown),
            }
        }
    }

    /// Sends the frame once and waits for its fate. None: the time is up, or its term is over.
    async fn attempt(&mut self, sending: &mut Sending) -> Option<Attempt> {
        let link = self.wire.link.clone();
        self.until(sending, link.connected()).await?;
        let epoch = link.epoch();
        // Each time: one who has waited for the log may have lost the right to write meanwhile. What was sent before
        // may still be acknowledged.
        let may_send = sending.term.as_ref().is_none_or(Term::holds);
        if !may_send && !sending.is_tried {
            return Some(Attempt::TooLate);
        }
        if may_send && let Err(error) = self.send(&link, sending).await? {
            tracing::warn!(error = %error, n = sending.header.n, "the nats client refused a frame");
            return Some(Attempt::Again { refused: true });
        }
        let again = || may_send.then_some(Attempt::Again { refused: false });
        let gives_up_at = Instant::now() + self.config.attempt_timeout;
        loop {
            let wake_at = sending.next_deadline().min(gives_up_at);
            tokio::select! {
                biased;
                message = self.wire.acks.next() => match message {
                    Some(message) if message.subject.as_str() == sending.reply => {
                        return Some(self.judge(&message));
                    }
                    // The answer to an earlier frame's repeated attempt.
                    Some(_) => {}
                    // The client is gone; the frame is given up with it, at its time.
                    None => {
                        self.until(sending, std::future::pending::<()>()).await?;
                    }
                },
                // What was in flight is lost with the connection.
                () = link.left(epoch) => return again(),
                () = sleep_until(wake_at) => {
                    let now = Instant::now();
                    if !self.is_still_good(sending, now) {
                        return None;
                    }
                    if now >= gives_up_at {
                        return again();
                    }
                }
            }
        }
    }

    async fn send(&self, link: &Link, sending: &mut Sending) -> Option<Result<(), async_nats::PublishError>> {
        sending.is_tried = true;
        let sent = link.client.publish_with_reply_and_headers(
            self.subject.clone(),
            sending.reply.clone(),
            sending.headers.clone(),
            sending.body.clone(),
        );
        self.until(sending, sent).await
    }

    fn judge(&self, message: &Message) -> Attempt {
        let again = Attempt::Again { refused: true };
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            tracing::warn!(stream = %self.log.stream(), "no stream answers for the frame; it is sent again");
            return again;
        }
        match parse_reply::<PublishAck>(&message.payload) {
            Ok(ack) if ack.stream == self.log.stream().as_str() => Attempt::Acked(ack),
            Ok(ack) => {
                tracing::error!(stream = %ack.stream, "another stream took the frame; it is sent again");
                again
            }
            Err(LogError::Server { source }) if source.error_code() == ErrorCode::STREAM_NOT_FOUND => again,
            Err(error) => {
                let reason = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, reason, "the log refused the frame; it is sent again");
                again
            }
        }
    }

    /// Waits for `future` while the frame's time lasts; None when it is up. Stalls the queue on the way.
    async fn until<T>(&self, sending: &mut Sending, future: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(future);
        loop {
            if let Ok(output) = timeout_at(sending.next_deadline(), &mut future).await {
                return Some(output);
            }
            if !self.is_still_good(sending, Instant::now()) {
                return None;
            }
        }
    }

    /// Whether the frame may be tried on at `now`. Refuses what is queued behind it when that is due.
    fn is_still_good(&self, sending: &mut Sending, now: Instant) -> bool {
        if sending.stalls_at.is_some_and(|at| now >= at) {
            sending.stalls_at = None;
            let FrameHeader { producer, n, .. } = sending.header;
            tracing::warn!(stream = %self.log.stream(), %producer, n, "the log does not answer; new events are refused");
            self.queue.stall();
        }
        now < sending.ends_at
    }

    /// After a frame of unknown fate: a new producer on a new connection, when the log answers again.
    async fn retire(&mut self) {
        metrics::counter!("ledger_producers_retired_total").increment(1);
        let (producer, n, stream) = (self.producer, self.n, self.log.stream());
        tracing::error!(%stream, %producer, n, "a frame was given up and may be in the log; its producer retires");
        self.queue.stall();
        self.in_flight = None;
        (self.producer, self.n) = ((self.new_producer)(), 0);
        let mut pause = FIRST_PAUSE;
        loop {
            match self.renew_wire().await {
                Ok(()) => break self.queue.resume(),
                Err(error) => tracing::debug!(%error, "the log does not answer yet"),
            }
            if self.queue.state() == super::PublisherState::Closed {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Replaces the connection, and proves that the log answers on it.
    async fn renew_wire(&mut self) -> Result<(), LogError> {
        self.wire = Wire::open(&self.log).await.map_err(|_| LogError::Disconnected)?;
        let endpoint = format!("STREAM.INFO.{}", self.log.stream());
        self.wire.link.request::<Info>(&endpoint, Bytes::new(), REQUEST_TIMEOUT).await.map(|_| ())
    }
}

impl Drop for Task {
    /// However the task ends, nobody waits for ever.
    fn drop(&mut self) {
        if let Some(fate) = &self.in_flight {
            fate.decide(Err(PublishError::Unknown));
        }
        self.queue.abandon();
    }
}

impl Wire {
    async fn open(log: &Log) -> Result<Self, ConnectError> {
        let link = log.open_link().await?;
        let inbox = link.client.new_inbox();
        let acks = link.client.subscribe(format!("{inbox}.*")).await;
        let acks = acks.map_err(|_| ConnectError::Lost { url: log.connection().display_url() })?;
        Ok(Self { link, inbox, acks })
    }
}

impl Sending {
    fn next_deadline(&self) -> Instant {
        self.stalls_at.unwrap_or(self.ends_at).min(self.ends_at)
    }
}
