//! Units that an admitted call holds until its fate is known.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ledger::{Month, UserId};
use nats::{Acknowledgement, EncodedEvent, Position, PublishError, Publisher, Term};

use super::ask::{Cost, Policy, Standing};
use super::fates::Fates;

/// A call that may happen. Its units are taken; dropped without being recorded, it gives them back.
pub struct Admission {
    way: Way,
    hold: Option<Hold>,
    standing: Option<Standing>,
    would_block: Option<Policy>,
}

/// Way of a call into the log.
pub(super) struct Way {
    pub(super) publisher: Publisher,
    /// The term in which the call was decided: once it is over, another process may decide about the same units.
    pub(super) term: Option<Term>,
}

impl Admission {
    /// A call that counts, with what it holds.
    pub(super) fn counted(way: Way, hold: Hold, standing: Option<Standing>) -> Self {
        Self { way, hold: Some(hold), standing, would_block: None }
    }

    /// A call that counts, though a limit would have refused it.
    pub(super) fn shadow(way: Way, hold: Hold, standing: Standing, would_block: Policy) -> Self {
        Self { way, hold: Some(hold), standing: Some(standing), would_block: Some(would_block) }
    }

    /// A call that does not count: nothing is held for it.
    pub(super) fn uncounted(way: Way) -> Self {
        Self { way, hold: None, standing: None, would_block: None }
    }

    /// Standing of the user with this call; none when it is not known (failure mode open) or the call does not count.
    pub fn standing(&self) -> Option<&Standing> {
        self.standing.as_ref()
    }

    /// What would have refused the call, in shadow mode.
    pub fn would_block(&self) -> Option<Policy> {
        self.would_block
    }

    /// Hands the call's event to the log. The answer comes when it is on disk.
    ///
    /// # Errors
    /// The event is certainly not recorded, unless [`PublishError::may_be_recorded`].
    pub fn record(mut self, event: &EncodedEvent) -> Result<Recording, PublishError> {
        let hold = self.hold.take();
        match self.way.publisher.submit(event, self.way.term.as_ref()) {
            Ok(ack) => Ok(Recording(Some(InFlight { ack, hold }))),
            Err(error) => {
                if let Some(hold) = hold {
                    hold.fail(error);
                }
                Err(error)
            }
        }
    }
}

/// An event on its way to disk. Dropping it (the client went away, the request took too long) does not take the event
/// back: its units are then settled in the background.
pub struct Recording(Option<InFlight>);

struct InFlight {
    ack: Acknowledgement,
    hold: Option<Hold>,
}

impl InFlight {
    /// Settles the units when the event's fate is known.
    async fn end(self) {
        let result = self.ack.await;
        if let Some(hold) = self.hold {
            hold.end(result);
        }
    }
}

impl Future for Recording {
    type Output = Result<Position, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(in_flight) = &mut self.0 else {
            // Polled after its end, which no await does.
            return Poll::Ready(Err(PublishError::Closed));
        };
        let result = match Pin::new(&mut in_flight.ack).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(result) => result,
        };
        if let Some(hold) = self.0.take().and_then(|in_flight| in_flight.hold) {
            hold.end(result);
        }
        Poll::Ready(result)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let Some(in_flight) = self.0.take_if(|in_flight| in_flight.hold.is_some()) else { return };
        match tokio::runtime::Handle::try_current() {
            // A runtime that is ending drops what it is given: nothing that would be spawned again when it is dropped.
            Ok(runtime) => drop(runtime.spawn(in_flight.end())),
            // The process is ending.
            Err(_) => {
                if let Some(hold) = in_flight.hold {
                    hold.lose();
                }
            }
        }
    }
}

/// Units of one call, taken from its user's limit.
pub(super) struct Hold {
    fates: Arc<Fates>,
    user: UserId,
    month: Month,
    cost: Cost,
    is_open: bool,
}

impl Hold {
    pub(super) fn new(fates: Arc<Fates>, user: UserId, month: Month, cost: Cost) -> Self {
        Self { fates, user, month, cost, is_open: true }
    }

    /// Settles a call that is in the log.
    fn settle(mut self, seq: u64) {
        self.is_open = false;
        self.fates.settle(self.user, self.month, self.cost, seq);
    }

    fn end(self, result: Result<Position, PublishError>) {
        match result {
            Ok(position) => self.settle(position.seq),
            Err(error) => self.fail(error),
        }
    }

    fn fail(self, error: PublishError) {
        if error.may_be_recorded() {
            self.lose();
        }
    }

    /// Leaves the call to those whose fate nobody knows.
    fn lose(mut self) {
        self.is_open = false;
        self.fates.lose(self.user, self.month, self.cost);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.is_open {
            self.fates.release(self.user, self.month, self.cost);
        }
    }
}
