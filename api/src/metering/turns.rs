//! Turns of the requests about one call: one at a time of each call, and no call waits for another.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;
use uuid::Uuid;

use super::error::MeteringError;

/// A request that has waited for so long is turned away.
const TURN_WITHIN: Duration = Duration::from_secs(10);
/// Calls that requests are under way about. A connection has one request at a time, so this is more than there are.
const MAX_CALLS: usize = 65_536;

/// Calls that requests are under way about. One that no request is about is not there.
#[derive(Default)]
pub(crate) struct CallTurns(Mutex<HashMap<Uuid, Requests>>);

/// The requests about one call.
struct Requests {
    /// Those that have or await their turn.
    count: usize,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A turn, which ends when it is dropped.
pub(super) struct CallTurn<'a> {
    /// Dropped before the place: whoever is next finds it open.
    _turn: OwnedMutexGuard<()>,
    _place: Place<'a>,
}

/// A place among the requests about a call.
struct Place<'a> {
    turns: &'a CallTurns,
    call_id: Uuid,
}

impl CallTurns {
    /// Waits for the turn of a request about this call.
    ///
    /// # Errors
    /// [`MeteringError::Turn`]: it did not come within ten seconds, or too many calls have requests under way.
    pub(super) async fn of(&self, call_id: Uuid) -> Result<CallTurn<'_>, MeteringError> {
        let (place, turn) = self.enter(call_id).ok_or(MeteringError::Turn)?;
        let turn = timeout(TURN_WITHIN, turn.lock_owned()).await.map_err(|_| MeteringError::Turn)?;
        Ok(CallTurn { _turn: turn, _place: place })
    }

    /// None when there is no room.
    fn enter(&self, call_id: Uuid) -> Option<(Place<'_>, Arc<tokio::sync::Mutex<()>>)> {
        let mut calls = self.0.lock();
        if calls.len() >= MAX_CALLS && !calls.contains_key(&call_id) {
            return None;
        }
        let requests = calls.entry(call_id).or_insert_with(|| Requests { count: 0, turn: Arc::default() });
        requests.count += 1;
        Some((Place { turns: self, call_id }, Arc::clone(&requests.turn)))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut calls = self.turns.0.lock();
        if let Some(requests) = calls.get_mut(&self.call_id) {
            requests.count -= 1;
            if requests.count == 0 {
                calls.remove(&self.call_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_waits_for_the_one_before_it_and_not_for_ever() {
        let turns = CallTurns::default();
        let (call, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let held = turns.of(call).await.unwrap();
        assert!(matches!(turns.of(call).await.err(), Some(MeteringError::Turn)));
        let of_other = turns.of(other).await.unwrap();
        assert_eq!(turns.0.lock().len(), 2);
        let (next, ()) = tokio::join!(turns.of(call), async { drop(held) });
        drop((next.unwrap(), of_other));
        assert!(turns.0.lock().is_empty(), "a call is kept that no request is about");
    }

    #[tokio::test]
    async fn a_request_that_ends_while_it_waits_leaves_nothing_behind() {
        let turns = CallTurns::default();
        let call = Uuid::from_u128(7);
        let held = turns.of(call).await.unwrap();
        let mut waiting = Box::pin(turns.of(call));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop(waiting);
        drop(held);
        assert!(turns.0.lock().is_empty());
    }

    #[tokio::test]
    async fn there_is_a_bound() {
        let turns = CallTurns::default();
        let mut held = Vec::new();
        for call in 0..MAX_CALLS as u128 {
            held.push(turns.of(Uuid::from_u128(call)).await.unwrap());
        }
        assert!(matches!(turns.of(Uuid::max()).await.err(), Some(MeteringError::Turn)));
        held.pop();
        assert!(turns.of(Uuid::max()).await.is_ok());
    }
}
