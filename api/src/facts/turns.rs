//! Turns: of the requests about one thing, one at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use uuid::Uuid;

/// Stripes: so many things may have their turn at the same time, as long as no two share one.
const STRIPES: usize = 64;
/// A request that has waited for so long is turned away.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// Turns by id, each with what its last holder left for the next one. Ids share a bounded number of stripes, and with
/// the stripe what is left in it. Cheap to clone.
#[derive(Debug)]
pub struct Turns<T>(Arc<[Mutex<T>; STRIPES]>);

/// The turn did not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("earlier requests took longer than {} s", TURN_WITHIN.as_secs())]
pub struct TurnTimeout;

impl<T: Clone> Turns<T> {
    /// Nobody has had a turn: each first one finds `initial`.
    pub fn new(initial: T) -> Self {
        Self(Arc::new(std::array::from_fn(|_| Mutex::new(initial.clone()))))
    }

    /// Waits for the turn of this id, which ends with the guard.
    ///
    /// # Errors
    /// It did not come within ten seconds.
    pub async fn of(&self, id: Uuid) -> Result<MutexGuard<'_, T>, TurnTimeout> {
        // The last byte is random in every version of UUID that is in use here.
        let [.., last] = id.into_bytes();
        timeout(TURN_WITHIN, self.0[usize::from(last) % STRIPES].lock()).await.map_err(|_| TurnTimeout)
    }
}

impl<T> Clone for Turns<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_waits_for_the_one_before_it_and_not_for_ever() {
        let turns = Turns::new(0);
        let id = Uuid::from_u128(7);
        let mut held = turns.of(id).await.unwrap();
        *held = 1;
        assert_eq!(turns.of(id).await.map(|turn| *turn), Err(TurnTimeout));
        assert_eq!(turns.of(Uuid::from_u128(8)).await.map(|turn| *turn), Ok(0), "another one does not wait");
        drop(held);
        assert_eq!(turns.of(id).await.map(|turn| *turn), Ok(1), "what was left is found");
    }
}
