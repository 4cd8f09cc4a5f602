//! An answer's body that tells its connection when it is over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::conn::Conn;

/// An answer's body; with its end the connection waits for the next request.
pub(super) struct Guarded {
    body: Body,
    conn: Arc<Conn>,
}

impl Guarded {
    pub(super) fn new(body: Body, conn: Arc<Conn>) -> Self {
        Self { body, conn }
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.conn.is_answered();
    }
}
