//! Unfinished heads, bounded for each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Bounds;
use crate::http::client::{TrustedProxies, party};

/// The unfinished heads of each address, trusted proxies apart.
///
/// Whoever has too many waits with its next connection, unread, until one of them is finished: a burst of honest
/// requests has its heads in a moment.
pub(super) struct Heads {
    most: usize,
    proxies: TrustedProxies,
    addresses: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// The right to have a head unfinished. It ends with this.
pub(super) struct Turn {
    heads: Arc<Heads>,
    address: IpAddr,
    permit: Option<OwnedSemaphorePermit>,
}

impl Heads {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let proxies = bounds.proxies.clone();
        Self { most: bounds.heads_per_address, proxies, addresses: Mutex::default() }
    }

    /// Waits until the address may begin another one.
    pub(super) async fn begin(heads: &Arc<Self>, address: IpAddr) -> Turn {
        // Before it waits: one that is given up on the way must not leave the address behind.
        let mut turn = Turn { heads: Arc::clone(heads), address, permit: None };
        if let Some(semaphore) = heads.semaphore(address) {
            // Nobody closes it.
            turn.permit = semaphore.acquire_owned().await.ok();
        }
        turn
    }

    /// Begins one, if the address may.
    pub(super) fn try_begin(heads: &Arc<Self>, address: IpAddr) -> Option<Turn> {
        let permit = match heads.semaphore(address) {
            Some(semaphore) => Some(semaphore.try_acquire_owned().ok()?),
            None => None,
        };
        Some(Turn { heads: Arc::clone(heads), address, permit })
    }

    /// That of the address; none of a proxy, which is not bounded.
    fn semaphore(&self, address: IpAddr) -> Option<Arc<Semaphore>> {
        if self.proxies.contain(address) {
            return None;
        }
        let mut addresses = self.addresses.lock();
        let semaphore =
            addresses.entry(party(address)).or_insert_with(|| Arc::new(Semaphore::new(self.most)));
        Some(Arc::clone(semaphore))
    }

    #[cfg(test)]
    fn known(&self) -> usize {
        self.addresses.lock().len()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut addresses = self.heads.addresses.lock();
        drop(self.permit.take());
        // Forgotten with its last head: others who wait hold the semaphore as well.
        if let Some(semaphore) = addresses.get(&party(self.address))
            && Arc::strong_count(semaphore) == 1
        {
            addresses.remove(&party(self.address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_known_while_it_has_heads() {
        let bounds = Bounds { heads_per_address: 2, ..Bounds::default() };
        let heads = Arc::new(Heads::new(&bounds));
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (one, neighbour) = (address("2001:db8::1"), address("2001:db8::ffff"));
        let first = Heads::begin(&heads, one).await;
        let second = Heads::try_begin(&heads, neighbour).expect("room for two");
        assert!(Heads::try_begin(&heads, one).is_none(), "a network of 64 bits is one");
        assert!(Heads::try_begin(&heads, address("2001:db8:0:1::1")).is_some());
        let given_up = tokio::time::timeout(std::time::Duration::ZERO, Heads::begin(&heads, one)).await;
        assert!(given_up.is_err());
        let waiting = Heads::begin(&heads, one);
        drop(first);
        let third = waiting.await;
        assert_eq!(heads.known(), 1);
        drop((second, third));
        assert_eq!(heads.known(), 0);
    }
}
