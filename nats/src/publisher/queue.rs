//! Queue of what waits for the log: the frame that fills, and those that are full.
//!
//! Callers write their events straight into the body of the open frame, under a lock held for one copy. All
//! callers of a frame share one fate; waiting for it costs a waker in a list, no channel.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use events::MAX_EVENT_BYTES;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{PublishError, PublisherState, Term};
use crate::frame::{EncodedEvent, Position};

/// The room that a new frame's body starts with, in bytes.
const FIRST_CAPACITY: usize = 4 * 1024;

/// Bounds of the queue and of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) queue_events: usize,
    pub(super) queue_bytes: usize,
    pub(super) frame_events: usize,
    pub(super) frame_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    waiting: Mutex<Waiting>,
    /// Tells the task that there is something to take.
    ready: Notify,
    last_acked: AtomicU64,
    /// Bytes of all frames that were acknowledged.
    acked_bytes: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    sealed: VecDeque<Filling>,
    open: Filling,
    /// Events and bytes in `sealed` and `open`.
    events: usize,
    bytes: usize,
    state: PublisherState,
    /// The task waits on `ready`.
    idle: bool,
}

/// A frame's body that grows: `[event,event`, closed when it is taken.
#[derive(Debug)]
struct Filling {
    body: BytesMut,
    count: u16,
    fate: Arc<SharedFate>,
    /// The first term that one of its events needs; a later one is not before that is over.
    term: Option<Term>,
}

/// A frame to send.
#[derive(Debug)]
pub(super) struct Full {
    pub(super) body: Bytes,
    pub(super) count: u16,
    pub(super) fate: Arc<SharedFate>,
    /// The term in which alone it may be sent.
    pub(super) term: Option<Term>,
}

/// Fate of a frame: its sequence, or why it has none.
#[derive(Debug, Default)]
pub(super) struct SharedFate(Mutex<Fate>);

#[derive(Debug)]
enum Fate {
    Open(Vec<Waker>),
    Known(Result<u64, PublishError>),
}

impl Default for Fate {
    fn default() -> Self {
        Self::Open(Vec::new())
    }
}

/// Waits for the fate of one frame, for the events `from..from + count` in it.
#[derive(Debug)]
pub(super) struct Ticket {
    fate: Arc<SharedFate>,
    from: u16,
    count: u16,
    /// Place of this ticket's waker in the fate's list.
    slot: Option<usize>,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        let waiting = Waiting {
            sealed: VecDeque::new(),
            open: Filling::new(FIRST_CAPACITY),
            events: 0,
            bytes: 0,
            state: PublisherState::Ready,
            idle: false,
        };
        Self {
            limits,
            waiting: Mutex::new(waiting),
            ready: Notify::new(),
            last_acked: AtomicU64::new(0),
            acked_bytes: AtomicU64::new(0),
        }
    }

    /// Adds one event, which may need a term.
    pub(super) fn push(&self, event: &EncodedEvent, term: Option<&Term>) -> Result<OneTicket, PublishError> {
        let mut waiting = self.admit(1, checked_len(event)?, &self.limits)?;
        let from = waiting.append(event, &self.limits);
        if waiting.open.term.is_none() {
            waiting.open.term = term.cloned();
        }
        let fate = Arc::clone(&waiting.open.fate);
        self.wake(waiting);
        Ok(OneTicket(Ticket { fate, from, count: 1, slot: None }))
    }

    /// Adds one event for whose fate nobody waits.
    pub(super) fn offer(&self, event: &EncodedEvent) -> Result<(), PublishError> {
        let mut waiting = self.admit(1, checked_len(event)?, &self.limits)?;
        waiting.append(event, &self.limits);
        self.wake(waiting);
        Ok(())
    }

    /// Adds all events, one after the other, or none. One ticket for each frame that holds some of them. They find half
    /// the room only: many at once are reported, and wait; what comes alone is somebody's call.
    pub(super) fn push_all(&self, events: &[EncodedEvent]) -> Result<Vec<Ticket>, PublishError> {
        let mut bytes = 0;
        for event in events {
            bytes += checked_len(event)?;
        }
        let Limits { queue_events, queue_bytes, .. } = self.limits;
        let half = Limits { queue_events: queue_events / 2, queue_bytes: queue_bytes / 2, ..self.limits };
        let mut waiting = self.admit(events.len(), bytes, &half)?;
        let mut tickets: Vec<Ticket> = Vec::new();
        for event in events {
            let from = waiting.append(event, &self.limits);
            match tickets.last_mut() {
                Some(last) if Arc::ptr_eq(&last.fate, &waiting.open.fate) => last.count += 1,
                _ => {
                    let fate = Arc::clone(&waiting.open.fate);
                    tickets.push(Ticket { fate, from, count: 1, slot: None });
                }
            }
        }
        self.wake(waiting);
        Ok(tickets)
    }

    /// The next frame to send; None when the queue is closed and empty.
    pub(super) async fn take(&self) -> Option<Full> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if let Some(full) = waiting.take() {
                    return Some(full);
                }
                if waiting.state == PublisherState::Closed {
                    return None;
                }
                waiting.idle = true;
            }
            // A wake-up between the lock and here is kept by `Notify`.
            self.ready.notified().await;
        }
    }

    /// Refuses what is queued and what comes, until [`Queue::resume`].
    pub(super) fn stall(&self) {
        self.refuse(PublisherState::Stalled, PublishError::Unavailable);
    }

    /// Refuses what is queued and what comes, for good.
    pub(super) fn poison(&self) {
        self.refuse(PublisherState::LogWentBackwards, PublishError::LogWentBackwards);
    }

    /// The log answers again.
    pub(super) fn resume(&self) {
        let mut waiting = self.waiting.lock();
        if waiting.state == PublisherState::Stalled {
            waiting.state = PublisherState::Ready;
        }
    }

    /// Takes no more events.
    pub(super) fn close(&self) {
        self.waiting.lock().state = PublisherState::Closed;
        self.ready.notify_one();
    }

    /// Takes no more events and refuses those that are queued: nobody is left to send them.
    pub(super) fn abandon(&self) {
        self.close();
        self.refuse(PublisherState::Closed, PublishError::Closed);
    }

    pub(super) fn state(&self) -> PublisherState {
        self.waiting.lock().state
    }

    pub(super) fn last_acked(&self) -> u64 {
        self.last_acked.load(Ordering::Acquire)
    }

    pub(super) fn acked_bytes(&self) -> u64 {
        self.acked_bytes.load(Ordering::Acquire)
    }

    /// Notes an acknowledged frame. False when its sequence is not beyond the ones before.
    pub(super) fn acked(&self, seq: u64, bytes: u64) -> bool {
        // First, so that whoever sees the sequence sees its bytes, too.
        self.acked_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.last_acked.fetch_max(seq, Ordering::AcqRel) < seq
    }

    fn admit(
        &self,
        events: usize,
        bytes: usize,
        limits: &Limits,
    ) -> Result<parking_lot::MutexGuard<'_, Waiting>, PublishError> {
        let waiting = self.waiting.lock();
        match waiting.state {
            PublisherState::Ready => {}
            PublisherState::Stalled => return Err(PublishError::Unavailable),
            PublisherState::LogWentBackwards => return Err(PublishError::LogWentBackwards),
            PublisherState::Closed => return Err(PublishError::Closed),
        }
        let fits =
            waiting.events + events <= limits.queue_events && waiting.bytes + bytes <= limits.queue_bytes;
        if fits { Ok(waiting) } else { Err(PublishError::QueueFull) }
    }

    fn wake(&self, mut waiting: parking_lot::MutexGuard<'_, Waiting>) {
        let idle = std::mem::take(&mut waiting.idle);
        drop(waiting);
        if idle {
            self.ready.notify_one();
        }
    }

    fn refuse(&self, state: PublisherState, error: PublishError) {
        let refused = {
            let mut waiting = self.waiting.lock();
            // A closing publisher only drains; its state stays.
            if waiting.state != PublisherState::Closed {
                waiting.state = state;
            }
            let mut refused = Vec::new();
            while let Some(full) = waiting.take() {
                refused.push(full.fate);
            }
            refused
        };
        for fate in refused {
            fate.decide(Err(error));
        }
    }
}

impl Waiting {
    /// Puts an event into the open frame, after sealing a frame that has no room; its index in the frame.
    fn append(&mut self, event: &EncodedEvent, limits: &Limits) -> u16 {
        // The separator before the event and the bracket that closes the body.
        let grown = self.open.body.len() + event.0.len() + 2;
        if self.open.count > 0
            && (usize::from(self.open.count) >= limits.frame_events || grown > limits.frame_bytes)
        {
            // The next frame is likely to grow as large as this one did.
            let next = Filling::new(self.open.body.len());
            self.sealed.push_back(std::mem::replace(&mut self.open, next));
        }
        self.events += 1;
        self.bytes += event.0.len();
        self.open.append(event)
    }

    fn take(&mut self) -> Option<Full> {
        let filling = match self.sealed.pop_front() {
            Some(sealed) => sealed,
            None if self.open.count > 0 => {
                let next = Filling::new(self.open.body.len());
                std::mem::replace(&mut self.open, next)
            }
            None => return None,
        };
        let full = filling.close();
        self.events -= usize::from(full.count);
        // The body holds a byte before each event and one at its end.
        self.bytes -= full.body.len() - usize::from(full.count) - 1;
        Some(full)
    }
}

impl Filling {
    fn new(capacity: usize) -> Self {
        let body = BytesMut::with_capacity(capacity.max(FIRST_CAPACITY));
        Self { body, count: 0, fate: Arc::default(), term: None }
    }

    fn append(&mut self, event: &EncodedEvent) -> u16 {
        self.body.put_u8(if self.count == 0 { b'[' } else { b',' });
        self.body.put_slice(&event.0);
        self.count += 1;
        self.count - 1
    }

    fn close(mut self) -> Full {
        self.body.put_u8(b']');
        Full { body: self.body.freeze(), count: self.count, fate: self.fate, term: self.term }
    }
}

impl SharedFate {
    /// Tells everybody who waits. The first decision stands.
    pub(super) fn decide(&self, result: Result<u64, PublishError>) {
        let mut fate = self.0.lock();
        if let Fate::Open(wakers) = &mut *fate {
            let wakers = std::mem::take(wakers);
            *fate = Fate::Known(result);
            drop(fate);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn poll(&self, slot: &mut Option<usize>, cx: &Context<'_>) -> Poll<Result<u64, PublishError>> {
        match &mut *self.0.lock() {
            Fate::Known(result) => Poll::Ready(*result),
            Fate::Open(wakers) => {
                if let Some(slot) = *slot {
                    wakers[slot].clone_from(cx.waker());
                } else {
                    *slot = Some(wakers.len());
                    wakers.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl Ticket {
    /// The positions of all events of this ticket.
    pub(super) async fn whole(mut self) -> Result<Vec<Position>, PublishError> {
        let seq = std::future::poll_fn(|cx| self.fate.poll(&mut self.slot, cx)).await?;
        Ok((self.from..self.from + self.count).map(|idx| Position { seq, idx }).collect())
    }
}

/// Waits for the fate of one event.
#[derive(Debug)]
pub(super) struct OneTicket(Ticket);

impl Future for OneTicket {
    type Output = Result<Position, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ticket { fate, from, slot, .. } = &mut self.0;
        let idx = *from;
        fate.poll(slot, cx).map_ok(|seq| Position { seq, idx })
    }
}

fn checked_len(event: &EncodedEvent) -> Result<usize, PublishError> {
    let bytes = event.0.len();
    if bytes > MAX_EVENT_BYTES { Err(PublishError::TooLarge { bytes }) } else { Ok(bytes) }
}
