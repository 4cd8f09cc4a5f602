//! The ordered reader: frames in sequence, from any position, by an ephemeral pull consumer without acks.
//!
//! The consumer is a throw-away: it is made anew after a reconnect, after missed heartbeats, and when messages
//! are lost on their way. What is asked for at a time is bounded in bytes, far below the 64 MiB at which the
//! server drops a slow client.

use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::connection::Session;
use crate::error::LogError;
use crate::frame::RawFrame;
use crate::log::{Log, REQUEST_TIMEOUT, time_of};

/// Bounds of a reader.
#[derive(Clone, Debug)]
pub struct ReaderConfig {
    /// Longest time that [`Reader::next_batch`] waits for a first frame.
    pub idle: Duration,
    /// The most frames asked for at a time.
    pub pull_frames: usize,
    /// The most bytes asked for at a time. Twice as much may be under way.
    pub pull_bytes: usize,
    /// Interval at which the server says that it is still there; after three silent ones the consumer is made anew.
    pub heartbeat: Duration,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(1),
            pull_frames: 1_024,
            pull_bytes: 4 * 1024 * 1024,
            heartbeat: Duration::from_millis(500),
        }
    }
}

/// Why no frames came.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection was lost and made again. The caller compares its checkpoint with the stream
    /// ([`crate::check_start`]) before it reads on; this reader then goes on where it was.
    #[error("the connection to the log was made anew")]
    Reconnected,
    /// The log does not answer; reading on tries again.
    #[error("the log cannot be read now")]
    Unavailable {
        /// Why.
        #[source]
        source: LogError,
    },
}

/// Reads frames in the order of their sequences.
#[derive(Debug)]
pub struct Reader {
    log: Log,
    config: ReaderConfig,
    next_seq: u64,
    /// The connection that the caller knows of.
    session: Session,
    source: Option<Source>,
    /// The batch that is being put together.
    batch: Vec<RawFrame>,
    /// A frame that was one too many for the last batch.
    held: Option<RawFrame>,
    /// The hole before this sequence was seen twice: it is in the stream, not on the way.
    confirmed_hole: Option<u64>,
    /// A running mean of the size of frames, in bytes.
    mean_frame_bytes: usize,
    /// Frames that the stream held behind the last one when that was sent.
    pending: u64,
}

/// One ephemeral consumer and what is under way from it.
#[derive(Debug)]
struct Source {
    messages: Subscriber,
    inbox: String,
    pull_subject: String,
    pulls: u64,
    /// Frames asked for that did not come yet.
    due: usize,
    /// The consumer's own count of what it delivered.
    delivered: u64,
    /// Time that it has been waited for in vain, heartbeats included.
    silent_for: Duration,
}

/// Meaning of a message from the consumer.
enum Item {
    Frame(RawFrame),
    /// Nothing to hand on.
    Nothing,
    /// The consumer is of no use any more.
    Broken(&'static str),
}

impl Reader {
    /// A reader whose first frame is the one at `from_seq` (at least 1), or the first one after it.
    pub fn open(log: &Log, from_seq: u64, config: ReaderConfig) -> Self {
        Self {
            log: log.clone(),
            config,
            next_seq: from_seq.max(1),
            session: log.link().session(),
            source: None,
            batch: Vec::new(),
            held: None,
            confirmed_hole: None,
            mean_frame_bytes: 0,
            pending: 0,
        }
    }

    /// The sequence of the next frame, if none is missing.
    pub fn next_seq(&self) -> u64 {
        let waiting = self.batch.first().or(self.held.as_ref());
        waiting.map_or(self.next_seq, |frame| frame.seq)
    }

    /// Number of frames that the stream held behind the last one read when the server sent it: the backlog, without
    /// what is on its way already.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// The frames that are there, of at most `max_events` events together, or one frame. Empty when none came within
    /// the idle time. A missing sequence shows as a jump: [`crate::Continuity`] judges it.
    ///
    /// Dropping the future loses nothing.
    pub async fn next_batch(&mut self, max_events: usize) -> Result<Vec<RawFrame>, ReadError> {
        let idle_at = Instant::now() + self.config.idle;
        let mut events: usize = self.batch.iter().map(RawFrame::count).sum();
        loop {
            let waits = self.batch.is_empty();
            let received = match self.held {
                Some(_) => Ok(()),
                None => self.receive(waits.then_some(idle_at)).await.map(|frame| self.held = frame),
            };
            // What came over a new connection is not handed on before the caller was told of it.
            self.same_connection()?;
            match received.map(|()| self.held.take()) {
                Ok(Some(frame)) if !waits && events + frame.count() > max_events => {
                    self.held = Some(frame);
                    return Ok(std::mem::take(&mut self.batch));
                }
                Ok(Some(frame)) => {
                    events += frame.count();
                    self.batch.push(frame);
                }
                Ok(None) if waits && Instant::now() < idle_at => {}
                Err(error) if waits => return Err(error),
                // A failure with frames in hand shows again when the next ones are asked for.
                Ok(None) | Err(_) => return Ok(std::mem::take(&mut self.batch)),
            }
        }
    }

    /// Fails when the connection is another one than before. What was read and not handed on is forgotten then.
    fn same_connection(&mut self) -> Result<(), ReadError> {
        let session = self.log.link().session();
        if session == self.session {
            return Ok(());
        }
        self.session = session;
        self.next_seq = self.next_seq();
        self.batch.clear();
        self.held = None;
        self.reset("the connection was made anew");
        Err(ReadError::Reconnected)
    }

    fn reset(&mut self, reason: &str) {
        if self.source.take().is_some() {
            tracing::debug!(stream = %self.log.stream(), next_seq = self.next_seq, reason, "reader starts anew");
        }
    }

    /// The next frame; with `until`, waits for it till then. None: nothing to hand on now.
    async fn receive(&mut self, until: Option<Instant>) -> Result<Option<RawFrame>, ReadError> {
        if self.source.is_none() {
            self.source = Some(self.make_source().await.map_err(|source| ReadError::Unavailable { source })?);
        }
        self.pull().await?;
        let Some(source) = &mut self.source else { return Ok(None) };
        let message = match until {
            None => source.messages.next().now_or_never(),
            Some(until) => {
                let (now, silence) = (Instant::now(), self.config.heartbeat * 3);
                let wake_at = until.min(now + silence.saturating_sub(source.silent_for));
                let message = timeout_at(wake_at, source.messages.next()).await.ok();
                source.silent_for =
                    if message.is_some() { Duration::ZERO } else { source.silent_for + now.elapsed() };
                if source.silent_for >= silence {
                    self.reset("heartbeats are missing");
                    return Ok(None);
                }
                message
            }
        };
        let item = match message {
            None => return Ok(None),
            Some(None) => Item::Broken("the subscription ended"),
            Some(Some(message)) => self.read(message),
        };
        match item {
            Item::Frame(frame) => Ok(Some(frame)),
            Item::Nothing => Ok(None),
            Item::Broken(reason) => {
                self.reset(reason);
                if let Some(until) = until {
                    // A consumer that breaks at once must not be made in a busy loop.
                    let pause = Instant::now() + self.config.heartbeat / 10;
                    tokio::time::sleep_until(until.min(pause)).await;
                }
                Ok(None)
            }
        }
    }

    fn read(&mut self, message: Message) -> Item {
        let Some(source) = &mut self.source else { return Item::Nothing };
        if let Some(status) = message.status {
            return source.note(status, message.headers.as_ref());
        }
        let Some(place) = message.reply.as_deref().and_then(Place::parse) else {
            return Item::Broken("a message without a place in the stream came");
        };
        source.due = source.due.saturating_sub(1);
        source.delivered += 1;
        if place.delivered != source.delivered {
            return Item::Broken("a message was lost on its way");
        }
        if place.seq < self.next_seq {
            return Item::Nothing;
        }
        if place.seq > self.next_seq && self.confirmed_hole != Some(place.seq) {
            self.confirmed_hole = Some(place.seq);
            return Item::Broken("sequences are missing; they are asked for once more");
        }
        self.next_seq = place.seq + 1;
        self.pending = place.pending;
        let bytes = message.length;
        self.mean_frame_bytes = (self.mean_frame_bytes * 7 + bytes) / 8;
        Item::Frame(RawFrame::new(place.seq, place.time, message.headers.as_ref(), message.payload))
    }

    /// Keeps enough asked for that the server never waits for us, and little enough to bound what is under way.
    async fn pull(&mut self) -> Result<(), ReadError> {
        let ReaderConfig { pull_frames, pull_bytes, heartbeat, .. } = self.config;
        let fitting = pull_bytes / self.mean_frame_bytes.max(1);
        let batch = fitting.clamp(8, pull_frames.max(8));
        let Some(source) = &mut self.source else { return Ok(()) };
        if source.due > batch / 2 {
            return Ok(());
        }
        let request = json!({
            "batch": batch,
            "max_bytes": pull_bytes,
            "expires": nanos(heartbeat * 60),
            "idle_heartbeat": nanos(heartbeat),
        });
        source.pulls += 1;
        let reply = format!("{}.{}", source.inbox, source.pulls);
        let subject = source.pull_subject.clone();
        let client = &self.log.link().client;
        let sent = client.publish_with_reply(subject, reply, Bytes::from(request.to_string()));
        // The client's queue is full only while the connection is away.
        if let Ok(Ok(())) = timeout_at(Instant::now() + REQUEST_TIMEOUT, sent).await {
            source.due += batch;
            return Ok(());
        }
        self.reset("the client takes no requests");
        Err(ReadError::Unavailable { source: LogError::Disconnected })
    }

    async fn make_source(&self) -> Result<Source, LogError> {
        let stream = self.log.stream();
        let link = self.log.link();
        let request = json!({
            "stream_name": stream.as_str(),
            "action": "create",
            "config": {
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self.next_seq,
                "ack_policy": "none",
                "replay_policy": "instant",
                "mem_storage": true,
                "num_replicas": 1,
                "max_deliver": 1,
                "inactive_threshold": nanos(self.config.heartbeat * 120),
            },
        });
        let endpoint = format!("CONSUMER.CREATE.{stream}");
        let payload = Bytes::from(request.to_string());
        let created: Created = match link.request(&endpoint, payload, REQUEST_TIMEOUT).await {
            Err(LogError::Server { source })
                if source.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND =>
            {
                return Err(LogError::NoStream { stream: stream.clone() });
            }
            other => other?,
        };
        let inbox = link.client.new_inbox();
        let subscribed =
            timeout_at(Instant::now() + REQUEST_TIMEOUT, link.client.subscribe(format!("{inbox}.*"))).await;
        let messages = subscribed.map_err(|_| LogError::Timeout)?.map_err(|_| LogError::Disconnected)?;
        Ok(Source {
            messages,
            inbox,
            pull_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", created.name),
            pulls: 0,
            due: 0,
            delivered: 0,
            silent_for: Duration::ZERO,
        })
    }
}

impl Source {
    /// A status ends one pull, or says that the server is there.
    fn note(&mut self, status: StatusCode, headers: Option<&HeaderMap>) -> Item {
        if status == StatusCode::IDLE_HEARTBEAT {
            return Item::Nothing;
        }
        if status == StatusCode::NO_RESPONDERS {
            return Item::Broken("the consumer is gone");
        }
        let left = headers.and_then(|headers| headers.get("Nats-Pending-Messages"));
        match left.and_then(|left| left.as_str().parse::<usize>().ok()) {
            // The pull came to its end, by time or by bytes, with that many frames not delivered.
            Some(left) => {
                self.due = self.due.saturating_sub(left);
                Item::Nothing
            }
            None => Item::Broken("the server ended the consumer"),
        }
    }
}

#[derive(Deserialize)]
struct Created {
    name: String,
}

/// Place of a delivered message, by its reply subject (ADR-15):
/// `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<tries>.<seq>.<delivered>.<nanos>.<pending>[.<token>]`.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    seq: u64,
    delivered: u64,
    time: DateTime<Utc>,
    pending: u64,
}

impl Place {
    fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let rest = match tokens.len() {
            7 => &tokens[3..],
            9.. => &tokens[5..],
            _ => return None,
        };
        let time = time_of(rest[2].parse().ok()?);
        let pending = rest[3].parse().ok()?;
        Some(Self { seq: rest[0].parse().ok()?, delivered: rest[1].parse().ok()?, time, pending })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_in_both_forms() {
        let time = DateTime::from_timestamp_nanos(1_700_000_000_000_000_001);
        let place = Some(Place { seq: 12, delivered: 3, time, pending: 7 });
        assert_eq!(Place::parse("$JS.ACK.LEDGER.c1.1.12.3.1700000000000000001.7"), place);
        assert_eq!(Place::parse("$JS.ACK.hub.AB12.LEDGER.c1.1.12.3.1700000000000000001.7"), place);
        assert_eq!(Place::parse("$JS.ACK.hub.AB12.LEDGER.c1.1.12.3.1700000000000000001.7.rnd"), place);
        assert_eq!(Place::parse("$JS.ACK.LEDGER.c1.1"), None);
        assert_eq!(Place::parse("_INBOX.x"), None);
    }
}
