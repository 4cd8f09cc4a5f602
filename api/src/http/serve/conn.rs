//! State of one connection, as its line, its requests and the gate see it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Bounds;
use super::heads::{Heads, Turn};

/// A connection is reading a request's head. So it begins.
const HEAD: u8 = 0;
/// A request is under way, up to the end of its answer.
const BUSY: u8 = 1;
/// The answer is complete, and not sent to its end.
const SENDING: u8 = 2;
/// It waits for a request.
const IDLE: u8 = 3;

/// What a connection is told from outside; a later one of these goes before an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// To end now, unless a request is under way.
    MakeRoom = 1,
    /// To end with the request that is under way.
    Finish = 2,
    /// To end now.
    Close = 3,
}

/// What a connection waits for, since a time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// The rest of a head.
    Head { since_ms: u64 },
    /// A request.
    Idle { since_ms: u64 },
}

/// An address has too many unfinished heads.
#[derive(Debug)]
pub(super) struct TooMany;

/// One connection.
pub(super) struct Conn {
    bounds: Arc<Bounds>,
    heads: Arc<Heads>,
    /// Begin of all times here.
    begun: Instant,
    address: IpAddr,
    phase: AtomicU8,
    /// Begin of the phase, in milliseconds.
    since_ms: AtomicU64,
    /// The right to its unfinished head.
    turn: Mutex<Option<Turn>>,
    has_turn: AtomicBool,
    order: AtomicU8,
    told: Notify,
}

impl Conn {
    /// A new connection, which has said nothing yet.
    pub(super) fn new(bounds: Arc<Bounds>, heads: Arc<Heads>, begun: Instant, address: IpAddr) -> Self {
        Self {
            bounds,
            heads,
            begun,
            address,
            phase: AtomicU8::new(HEAD),
            since_ms: AtomicU64::new(ms_since(begun)),
            turn: Mutex::new(None),
            has_turn: AtomicBool::new(false),
            order: AtomicU8::new(0),
            told: Notify::new(),
        }
    }

    /// The peer's address.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// Waits until its address may have another head unfinished; tells whether that came in time.
    pub(super) async fn waits_its_turn(&self) -> bool {
        if let Some(turn) = Heads::try_begin(&self.heads, self.address) {
            self.takes(turn);
            return true;
        }
        let turn = Heads::begin(&self.heads, self.address);
        let Ok(turn) = tokio::time::timeout(self.bounds.head, turn).await else { return false };
        self.takes(turn);
        // Its time for the head begins now.
        self.enter(HEAD);
        true
    }

    fn takes(&self, turn: Turn) {
        *self.turn.lock() = Some(turn);
        self.has_turn.store(true, Ordering::Release);
    }

    /// Something came in. What came together with a request shows only as silence after it: it has an idle connection's
    /// time.
    pub(super) fn has_read(&self) {
        if matches!(self.phase.load(Ordering::Acquire), IDLE | SENDING) {
            self.enter(HEAD);
        }
    }

    /// Something went out.
    pub(super) fn has_written(&self) {
        if matches!(self.phase.load(Ordering::Acquire), IDLE | SENDING) {
            self.since_ms.store(ms_since(self.begun), Ordering::Release);
        }
    }

    /// All went out that there was; answers whether it waits for a request from now on.
    pub(super) fn has_flushed(&self) -> bool {
        // Only out of one phase: a request may have begun meanwhile.
        let waits = self.phase.compare_exchange(SENDING, IDLE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if waits {
            self.since_ms.store(ms_since(self.begun), Ordering::Release);
        }
        waits
    }

    /// A head is complete.
    pub(super) fn is_asked(&self) {
        self.enter(BUSY);
        if self.has_turn.swap(false, Ordering::AcqRel) {
            self.turn.lock().take();
        }
    }

    /// An answer is complete; some of it may have to be sent.
    pub(super) fn is_answered(&self) {
        self.enter(SENDING);
    }

    /// The instant at which it must have said more; none while a request is under way. A later head that does not come
    /// whole is one of its address's, too.
    ///
    /// # Errors
    /// The address has too many.
    pub(super) fn deadline(&self) -> Result<Option<Instant>, TooMany> {
        let patience = match self.phase.load(Ordering::Acquire) {
            BUSY => return Ok(None),
            IDLE | SENDING => self.bounds.idle,
            _ => {
                if !self.has_turn.load(Ordering::Acquire) {
                    self.takes(Heads::try_begin(&self.heads, self.address).ok_or(TooMany)?);
                }
                self.bounds.head
            }
        };
        let since = self.begun + Duration::from_millis(self.since_ms.load(Ordering::Acquire));
        Ok(Some(since + patience))
    }

    /// Time after which a reader's pace is judged.
    pub(super) fn slow(&self) -> Duration {
        self.bounds.slow
    }

    /// What it waits for; none while a request is under way, or its answer.
    pub(super) fn waits(&self) -> Option<Waits> {
        let since_ms = self.since_ms.load(Ordering::Acquire);
        match self.phase.load(Ordering::Acquire) {
            HEAD => Some(Waits::Head { since_ms }),
            IDLE => Some(Waits::Idle { since_ms }),
            _ => None,
        }
    }

    /// Gives an order.
    pub(super) fn tell(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.told.notify_one();
    }

    /// Waits for an order.
    pub(super) async fn order(&self) -> Order {
        loop {
            self.told.notified().await;
            let given = self.order.load(Ordering::Acquire);
            if let Some(order) = [Order::Close, Order::Finish].into_iter().find(|order| given == *order as u8)
            {
                return order;
            }
            if self.waits().is_some() {
                return Order::MakeRoom;
            }
            // It has something to do by now: whoever looked for room looks again.
            let (told, none) = (Order::MakeRoom as u8, 0);
            let _ = self.order.compare_exchange(told, none, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    fn enter(&self, phase: u8) {
        self.since_ms.store(ms_since(self.begun), Ordering::Release);
        self.phase.store(phase, Ordering::Release);
    }
}

/// Whole milliseconds since then.
pub(super) fn ms_since(begun: Instant) -> u64 {
    ms(begun.elapsed())
}

/// Whole milliseconds.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
