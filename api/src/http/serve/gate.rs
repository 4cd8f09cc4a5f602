//! Who may come in: the connections that there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Bounds;
use super::conn::{Conn, Order, Waits, ms, ms_since};
use super::descriptors;
use super::heads::Heads;
use crate::http::client::party;

/// A head that is unfinished for so long is a slow one.
const SLOW_HEAD: Duration = Duration::from_secs(1);

/// The connections of a listener.
pub(super) struct Gate {
    bounds: Arc<Bounds>,
    heads: Arc<Heads>,
    begun: Instant,
    connections: Mutex<Connections>,
    /// A place is free.
    freed: Notify,
}

#[derive(Default)]
struct Connections {
    next: u64,
    by_number: HashMap<u64, Arc<Conn>>,
    by_address: HashMap<IpAddr, usize>,
}

/// A place among the connections; it is free again with this.
pub(super) struct Seat {
    gate: Arc<Gate>,
    conn: Arc<Conn>,
    number: u64,
}

impl Gate {
    /// Nobody is in yet. There is room for no more than the system has descriptors for.
    pub(super) fn new(mut bounds: Bounds) -> Self {
        bounds.connections = bounds.connections.min(descriptors::for_connections()).max(1);
        Self {
            heads: Arc::new(Heads::new(&bounds)),
            bounds: Arc::new(bounds),
            begun: Instant::now(),
            connections: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// Lets a connection in, or not: an address that has its part of the places gets another one only for one of its
    /// own that waits for a request. Waits while all places are taken: then whoever waits gives way.
    pub(super) async fn admit(gate: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let address = address.to_canonical();
        if gate.has_its_part(address) && !gate.displace(Some(address)) {
            return None;
        }
        gate.room().await;
        let conn = Conn::new(Arc::clone(&gate.bounds), Arc::clone(&gate.heads), gate.begun, address);
        let conn = Arc::new(conn);
        let mut connections = gate.connections.lock();
        let number = connections.next;
        connections.next += 1;
        connections.by_number.insert(number, Arc::clone(&conn));
        *connections.by_address.entry(party(address)).or_default() += 1;
        drop(connections);
        Some(Seat { gate: Arc::clone(gate), conn, number })
    }

    /// Whether the address has as many places as one may have. A trusted proxy may have all.
    fn has_its_part(&self, address: IpAddr) -> bool {
        let connections = self.connections.lock();
        let has = connections.by_address.get(&party(address)).copied().unwrap_or_default();
        has >= self.bounds.per_address() && !self.bounds.proxies.contain(address)
    }

    /// Waits until there is room for one more. While all are at work nobody new comes in.
    async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.connections.lock().by_number.len() < self.bounds.connections {
                return;
            }
            self.displace(None);
            // One that is told may have begun a request in this moment, and another one may be idle by then.
            let _ = tokio::time::timeout(Duration::from_millis(100), freed).await;
        }
    }

    /// Tells a connection that waits for a request to make room, of this address alone if one is given; answers whether
    /// there is one. Slow heads go first, then who has been idle longest, and a head that has just begun last.
    fn displace(&self, of: Option<IpAddr>) -> bool {
        let slow_ms = ms_since(self.begun).saturating_sub(ms(SLOW_HEAD));
        let connections = self.connections.lock();
        let candidates = connections.by_number.iter().filter_map(|(number, conn)| {
            let is_asked = of.is_none_or(|address| party(address) == party(conn.address()));
            let (place, since_ms) = match conn.waits()? {
                Waits::Head { since_ms } if since_ms <= slow_ms => (0, since_ms),
                Waits::Idle { since_ms } => (1, since_ms),
                Waits::Head { since_ms } => (2, since_ms),
            };
            is_asked.then_some(((place, since_ms, *number), conn))
        });
        let chosen = candidates.min_by_key(|(order, _)| *order);
        if let Some((_, conn)) = chosen {
            conn.tell(Order::MakeRoom);
        }
        chosen.is_some()
    }

    /// Has all connections end with what is under way.
    pub(super) fn drain(&self) {
        self.tell(Order::Finish);
    }

    /// Ends all connections.
    pub(super) fn close(&self) {
        self.tell(Order::Close);
    }

    fn tell(&self, order: Order) {
        for conn in self.connections.lock().by_number.values() {
            conn.tell(order);
        }
    }
}

impl Seat {
    /// The connection that has it.
    pub(super) fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut connections = self.gate.connections.lock();
        connections.by_number.remove(&self.number);
        let address = party(self.conn.address());
        if let Some(count) = connections.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                connections.by_address.remove(&address);
            }
        }
        drop(connections);
        self.gate.freed.notify_one();
    }
}
