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
/// It waits for a request.
const IDLE: u8 = 2;

/// What a connection is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// To end with the request that is under way.
    Finish,
    /// To end now.
    Close,
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
    is_to_close: AtomicBool,
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
            is_to_close: AtomicBool::new(false),
            told: Notify::new(),
        }
    }

    /// Waits until its address may have another head unfinished; tells whether that came in time.
    pub(super) async fn waits_its_turn(&self) -> bool {
        let turn = Heads::begin(&self.heads, self.address);
        let Ok(turn) = tokio::time::timeout(self.bounds.head, turn).await else { return false };
        self.takes(turn);
        true
    }

    fn takes(&self, turn: Turn) {
        *self.turn.lock() = Some(turn);
        self.has_turn.store(true, Ordering::Release);
    }

    /// Something came in.
    pub(super) fn has_read(&self) {
        if self.phase.load(Ordering::Acquire) == IDLE {
            self.enter(HEAD);
        }
    }

    /// Something went out: the end of an answer, if none is under way.
    pub(super) fn has_written(&self) {
        if self.phase.load(Ordering::Acquire) == IDLE {
            self.since_ms.store(ms_since(self.begun), Ordering::Release);
        }
    }

    /// A head is complete.
    pub(super) fn is_asked(&self) {
        self.enter(BUSY);
        if self.has_turn.swap(false, Ordering::AcqRel) {
            self.turn.lock().take();
        }
    }

    /// An answer is over.
    pub(super) fn is_answered(&self) {
        self.enter(IDLE);
    }

    /// The instant at which it must have said more; none while a request is under way. A later head that does not come
    /// whole is one of its address's, too.
    ///
    /// # Errors
    /// The address has too many.
    pub(super) fn deadline(&self) -> Result<Option<Instant>, TooMany> {
        let patience = match self.phase.load(Ordering::Acquire) {
            BUSY => return Ok(None),
            IDLE => self.bounds.idle,
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

    /// How long it has waited for a request, in milliseconds; none while one is under way.
    pub(super) fn waits_since_ms(&self) -> Option<u64> {
        (self.phase.load(Ordering::Acquire) != BUSY).then(|| self.since_ms.load(Ordering::Acquire))
    }

    /// Gives an order.
    pub(super) fn tell(&self, order: Order) {
        if order == Order::Close {
            self.is_to_close.store(true, Ordering::Release);
        }
        self.told.notify_one();
    }

    /// Waits for an order.
    pub(super) async fn order(&self) -> Order {
        self.told.notified().await;
        if self.is_to_close.load(Ordering::Acquire) { Order::Close } else { Order::Finish }
    }

    fn enter(&self, phase: u8) {
        self.since_ms.store(ms_since(self.begun), Ordering::Release);
        self.phase.store(phase, Ordering::Release);
    }
}

fn ms_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
