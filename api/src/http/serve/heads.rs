//! Unfinished heads, counted for each address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use parking_lot::Mutex;

use super::Bounds;
use crate::http::client::TrustedProxies;

/// An address has too many unfinished heads.
#[derive(Debug)]
pub(super) struct Refused;

/// The unfinished heads of each address, trusted proxies apart.
pub(super) struct Heads {
    most: usize,
    proxies: TrustedProxies,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl Heads {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self { most: bounds.heads_per_address, proxies: bounds.proxies.clone(), counts: Mutex::default() }
    }

    /// Counts one that begins.
    pub(super) fn begin(&self, address: IpAddr) -> Result<(), Refused> {
        if self.proxies.contain(address) {
            return Ok(());
        }
        let mut counts = self.counts.lock();
        let count = counts.entry(party(address)).or_default();
        if *count >= self.most {
            return Err(Refused);
        }
        *count += 1;
        Ok(())
    }

    /// Counts one no more.
    pub(super) fn end(&self, address: IpAddr) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&party(address)) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&party(address));
            }
        }
    }
}

/// Whom an address stands for: of IPv6 a network of 64 bits, which is what one machine has.
fn party(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}
