//! Who may come in: the connections that there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Bounds;
use super::conn::{Conn, Order};
use super::descriptors;
use super::heads::Heads;

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

    /// Waits until there is room for one more. When there is none, the connection that has waited longest for a request
    /// is closed; while all are at work nobody new comes in.
    pub(super) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            {
                let connections = self.connections.lock();
                if connections.by_number.len() < self.bounds.connections {
                    return;
                }
                let waiting = connections.by_number.iter();
                let waiting =
                    waiting.filter_map(|(number, conn)| Some((conn.waits_since_ms()?, number, conn)));
                if let Some((.., longest)) = waiting.min_by_key(|(since_ms, number, _)| (*since_ms, **number))
                {
                    longest.tell(Order::Close);
                    metrics::counter!("ledger_connections_displaced_total").increment(1);
                }
            }
            // One that is told may have begun a request in this moment, and another one may be idle by then.
            let _ = tokio::time::timeout(Duration::from_millis(100), freed).await;
        }
    }

    /// Lets a connection in.
    pub(super) fn admit(gate: &Arc<Self>, address: IpAddr) -> Seat {
        let address = address.to_canonical();
        let conn = Conn::new(Arc::clone(&gate.bounds), Arc::clone(&gate.heads), gate.begun, address);
        let conn = Arc::new(conn);
        let mut connections = gate.connections.lock();
        let number = connections.next;
        connections.next += 1;
        connections.by_number.insert(number, Arc::clone(&conn));
        drop(connections);
        Seat { gate: Arc::clone(gate), conn, number }
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
        self.gate.connections.lock().by_number.remove(&self.number);
        self.gate.freed.notify_one();
    }
}
