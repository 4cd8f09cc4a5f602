//! A connection's bytes, with an eye on the clock: who says nothing, or takes nothing, is cut.

use std::future::Future as _;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::conn::Conn;

/// A reader that takes less than this is too slow.
const BYTES_PER_S: u64 = 1_000;

/// A connection's stream.
pub(super) struct Line {
    stream: TcpStream,
    conn: Arc<Conn>,
    /// Wakes whoever waits for the peer to say something.
    silence: Option<Pin<Box<Sleep>>>,
    reader: Reader,
}

/// Pace of a peer, over the time in which it kept us waiting.
#[derive(Default)]
struct Reader {
    blocked: Duration,
    taken: u64,
    /// Begin of the wait that goes on.
    since: Option<Instant>,
    wake: Option<Pin<Box<Sleep>>>,
}

impl Line {
    pub(super) fn new(stream: TcpStream, conn: Arc<Conn>) -> Self {
        Self { stream, conn, silence: None, reader: Reader::default() }
    }

    /// Nothing has come: an error when it should have.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Ok(deadline) = self.conn.deadline() else {
            return Poll::Ready(Err(io::Error::new(
                ErrorKind::ConnectionRefused,
                "too many unfinished heads",
            )));
        };
        let Some(deadline) = deadline else { return Poll::Pending };
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        // Mostly the deadline has moved on since: it is looked at when the timer fires, which costs nothing a request.
        if silence.deadline() > deadline {
            silence.as_mut().reset(deadline);
        }
        loop {
            ready!(silence.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
            silence.as_mut().reset(deadline);
        }
    }

    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.conn.has_written();
                self.reader.took(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(self.reader.poll_too_slow(cx, self.conn.slow()));
                metrics::counter!("ledger_slow_readers_total").increment(1);
                Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the peer reads too slowly")))
            }
        }
    }
}

impl Reader {
    fn took(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.blocked += since.elapsed();
        }
        self.taken += bytes as u64;
    }

    /// Ready when the peer has kept us waiting for `judged` and taken too little meanwhile.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>, judged: Duration) -> Poll<()> {
        loop {
            let due = *self.since.get_or_insert_with(Instant::now) + judged.saturating_sub(self.blocked);
            let wake = self.wake.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if wake.deadline() != due {
                wake.as_mut().reset(due);
            }
            ready!(wake.as_mut().poll(cx));
            if u128::from(self.taken) * 1_000 < u128::from(BYTES_PER_S) * judged.as_millis() {
                return Poll::Ready(());
            }
            // Quick enough: what follows is judged anew.
            *self = Self { wake: self.wake.take(), ..Self::default() };
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(read) => {
                self.conn.has_read();
                Poll::Ready(read)
            }
            Poll::Pending => self.poll_silence(cx),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        // hyper has asked for more before it answered, and does so again only when something comes: so the timer is set
        // here. What it says now is said again when it fires.
        if flushed.is_ready() && self.conn.has_flushed() {
            let _ = self.poll_silence(cx);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
