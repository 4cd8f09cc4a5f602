//! The accept loop: HTTP/1 on a listener, within bounds that hold before anybody has shown a credential.
//!
//! * A head comes within 10 s and has 32 KiB at most; a connection without a request ends after 60 s; a reader that
//!   takes less than 1 KB/s is cut after 30 s (`line`).
//! * An address has at most 128 heads unfinished, trusted proxies apart: its next connection waits, unread.
//! * All together have `MAX_CONNECTIONS`, and an address a quarter of them, trusted proxies apart. When they are taken,
//!   one that waits for a request makes room.
//!
//! A request that is under way is never cut for another's sake; how long it may take is the envelope's matter.

mod body;
mod conn;
mod descriptors;
mod gate;
mod heads;
mod line;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use self::body::Guarded;
use self::conn::{Conn, Order};
use self::gate::{Gate, Seat};
use self::line::Line;
use super::client::TrustedProxies;

/// The longest head of a request, in bytes; beyond it: 431.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Bytes that the kernel holds unsent: so few that a reader's pace shows.
const UNSENT_BYTES: u32 = 32 * 1024;
/// Pause after the system had no connection to give, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of a listener.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Connections at a time (`MAX_CONNECTIONS`), as far as the system gives descriptors.
    pub connections: usize,
    /// Heads that an address may have unfinished.
    pub heads_per_address: usize,
    /// Proxies that may have any number of them.
    pub proxies: TrustedProxies,
    /// Time for a head.
    pub head: Duration,
    /// Time without a request.
    pub idle: Duration,
    /// Time after which a reader's pace is judged.
    pub slow: Duration,
}

impl Bounds {
    /// Connections that one address may have.
    fn per_address(&self) -> usize {
        (self.connections / 4).max(1)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 10_000,
            heads_per_address: 128,
            proxies: TrustedProxies::default(),
            head: Duration::from_secs(10),
            idle: Duration::from_mins(1),
            slow: Duration::from_secs(30),
        }
    }
}

/// Serves `app` on `listener` until `shutdown`; then answers what is in flight, for `drain` at most.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    bounds: Bounds,
    shutdown: CancellationToken,
    drain: Duration,
) {
    let gate = Arc::new(Gate::new(bounds));
    let tasks = TaskTracker::new();
    tokio::select! {
        () = accept(&listener, &app, &gate, &tasks) => {}
        () = shutdown.cancelled() => {}
    }
    // Nobody new comes in: the address is free for the next process.
    drop(listener);
    gate.drain();
    tasks.close();
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!(
            after_ms = drain.as_millis(),
            "requests are still in flight; their connections are closed"
        );
        gate.close();
    }
}

async fn accept(listener: &TcpListener, app: &Router, gate: &Arc<Gate>, tasks: &TaskTracker) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client has hung up already.
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::error!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match Gate::admit(gate, peer.ip()).await {
            Some(seat) => drop(tasks.spawn(connection(stream, peer, seat, app.clone()))),
            None => refused(),
        }
    }
}

fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, peer: SocketAddr, seat: Seat, app: Router) {
    // Answers are small and written whole: waiting for more to send would only delay them. A connection that is closed
    // already is not worth a word.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES);
    let conn = seat.conn();
    // Not read before its turn: so long it costs a descriptor and no more.
    let is_its_turn = tokio::select! {
        is_its_turn = conn.waits_its_turn() => is_its_turn,
        _ = conn.order() => false,
    };
    if !is_its_turn {
        return refused();
    }
    let service = service_fn(|request| {
        // Before hyper looks for more: by then a complete head must not pass for an unfinished one.
        conn.is_asked();
        answer(app.clone(), Arc::clone(conn), peer, request)
    });
    let io = TokioIo::new(Line::new(stream, Arc::clone(conn)));
    // Times are the line's: hyper would take a pause between two requests for a slow head.
    let serving = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    loop {
        tokio::select! {
            biased;
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
            order = conn.order() => match order {
                Order::MakeRoom => return metrics::counter!("ledger_connections_displaced_total").increment(1),
                Order::Finish => serving.as_mut().graceful_shutdown(),
                Order::Close => return,
            },
        }
    }
}

fn refused() {
    metrics::counter!("ledger_connections_refused_total").increment(1);
}

async fn answer(
    mut app: Router,
    conn: Arc<Conn>,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Guarded>, Infallible> {
    request.extensions_mut().insert(ConnectInfo(peer));
    let response = app.call(request.map(Body::new)).await?;
    Ok(response.map(|body| Guarded::new(body, conn)))
}
