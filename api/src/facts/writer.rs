//! Writing events of ours, for requests that wait for them.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use events::Event;
use ledger::{Clock, IdSource};
use nats::{EncodedEvent, PublishError, Publisher};
use uuid::Uuid;

use super::headers::LedgerSeq;
use super::position::Positions;
use super::watermark::Watermark;

/// An answer waits this long for the projections before it says 202.
pub const PROJECTED_WITHIN: Duration = Duration::from_secs(2);

/// Puts events on disk in the log, and waits a little until the projections hold them. Cheap to clone.
#[derive(Clone)]
pub struct Writer(Arc<Parts>);

struct Parts {
    publisher: Publisher,
    watermark: Watermark,
    positions: Positions,
    clock: Clock,
    ids: IdSource,
}

/// An event that is on disk in the log.
#[derive(Clone, Debug)]
#[must_use]
pub struct Written {
    /// Sequence of its frame.
    pub seq: u64,
    /// True when the projections hold it.
    pub is_projected: bool,
    position: LedgerSeq,
}

impl Writer {
    /// Writes through `publisher`; events get their ids and times from `ids` and `clock`.
    pub fn new(
        publisher: Publisher,
        watermark: Watermark,
        positions: Positions,
        clock: Clock,
        ids: IdSource,
    ) -> Self {
        Self(Arc::new(Parts { publisher, watermark, positions, clock, ids }))
    }

    /// A new id for an event.
    pub fn new_id(&self) -> Uuid {
        self.0.ids.event_id()
    }

    /// The ledger's time.
    pub fn now(&self) -> DateTime<Utc> {
        self.0.clock.now()
    }

    /// Puts the event on disk in the log. Answers the sequence of its frame.
    ///
    /// # Errors
    /// It is certainly not recorded, unless [`PublishError::may_be_recorded`].
    pub async fn record(&self, event: &Event<'_>) -> Result<u64, PublishError> {
        Ok(self.0.publisher.publish(EncodedEvent::of(event)).await?.seq)
    }

    /// Records the event and waits for the projections: [`Writer::record`], then [`Writer::projected`].
    ///
    /// # Errors
    /// As of [`Writer::record`].
    pub async fn write(&self, event: &Event<'_>) -> Result<Written, PublishError> {
        let seq = self.record(event).await?;
        Ok(self.projected(seq).await)
    }

    /// Waits until the projections hold what was recorded at `seq`, two seconds at most.
    pub async fn projected(&self, seq: u64) -> Written {
        let is_projected = self.0.watermark.wait_for(seq, PROJECTED_WITHIN).await;
        Written { seq, is_projected, position: self.at(seq) }
    }

    /// What was recorded earlier at `seq`, and was found in the projections.
    pub fn found(&self, seq: u64) -> Written {
        Written { seq, is_projected: true, position: self.at(seq) }
    }

    /// The header that names the position of `seq`.
    pub fn at(&self, seq: u64) -> LedgerSeq {
        LedgerSeq::at(self.0.positions, seq)
    }

    /// Positions of this log.
    pub fn positions(&self) -> Positions {
        self.0.positions
    }
}

impl Written {
    /// `projected`, or 202 while the projections do not hold the event.
    fn status(&self, projected: StatusCode) -> StatusCode {
        if self.is_projected { projected } else { StatusCode::ACCEPTED }
    }

    /// The answer to the write: `projected` or 202, `Ledger-Seq`, and the body.
    pub fn answer(self, projected: StatusCode, body: impl IntoResponse) -> Response {
        (self.status(projected), self.position, body).into_response()
    }
}
