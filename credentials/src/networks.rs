//! Networks from which an API key may be used.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Most networks of a key.
pub const MAX_NETWORKS: usize = 32;

/// Networks from which a credential is taken; from anywhere when there are none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks(Box<[IpNet]>);

/// Texts that name no networks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworksError {
    /// One of them, by its index, is none.
    #[error("a network is an address, or one like 10.0.0.0/8")]
    NotANetwork(usize),
    /// There are too many.
    #[error("at most {MAX_NETWORKS} networks")]
    TooMany,
}

impl Networks {
    /// Reads networks; an address is the network of itself. An IPv4 network that is mapped into IPv6 is the IPv4 one.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, NetworksError> {
        if texts.len() > MAX_NETWORKS {
            return Err(NetworksError::TooMany);
        }
        let mut networks = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let text = text.as_ref();
            let network = text
                .parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| NetworksError::NotANetwork(index))?;
            let network = canonical(network);
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        Ok(Self(networks.into()))
    }

    /// Whether a credential from this address is taken.
    pub fn allow(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.is_empty() || self.0.iter().any(|network| network.contains(&address))
    }

    /// The texts, as they are stored and shown.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(IpNet::to_string).collect()
    }
}

/// Without bits behind the prefix, and as IPv4 where it is that.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    if let IpNet::V6(v6) = network
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(bits) = v6.prefix_len().checked_sub(MAPPED_BITS)
        && let Ok(v4) = Ipv4Net::new(v4, bits)
    {
        return IpNet::V4(v4.trunc());
    }
    network.trunc()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(networks: &[&str], address: &str) -> bool {
        Networks::parse(networks).unwrap().allow(address.parse().unwrap())
    }

    #[test]
    fn an_address_is_in_its_network_however_it_is_written() {
        for (networks, address, is_allowed) in [
            (&[] as &[&str], "203.0.113.7", true),
            (&["203.0.113.0/24"], "203.0.113.255", true),
            (&["203.0.113.9/24"], "203.0.113.1", true),
            (&["203.0.113.0/24"], "203.0.114.0", false),
            (&["203.0.113.7"], "203.0.113.7", true),
            (&["203.0.113.7"], "203.0.113.8", false),
            (&["203.0.113.0/24"], "::ffff:203.0.113.7", true),
            (&["::ffff:203.0.113.0/120"], "203.0.113.7", true),
            (&["2001:db8::/32"], "2001:db8:1::1", true),
            (&["2001:db8::/32"], "203.0.113.7", false),
            (&["0.0.0.0/0"], "203.0.113.7", true),
            (&["0.0.0.0/0"], "2001:db8::1", false),
            (&["10.0.0.0/8", "2001:db8::1"], "2001:db8::1", true),
        ] {
            assert_eq!(allows(networks, address), is_allowed, "{networks:?} {address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_by_its_index() {
        for bad in ["", "10.0.0.0/33", "10.0.0", "host", "10.0.0.0/8 ", "fe80::1%eth0"] {
            assert_eq!(Networks::parse(&["10.0.0.1", bad]), Err(NetworksError::NotANetwork(1)), "{bad:?}");
        }
        let many: Vec<String> = (0..=MAX_NETWORKS).map(|n| format!("10.0.{n}.0/24")).collect();
        assert_eq!(Networks::parse(&many), Err(NetworksError::TooMany));
    }

    #[test]
    fn networks_are_kept_as_they_are_meant() {
        let networks = Networks::parse(&["10.1.2.3/8", "::ffff:192.0.2.1", "10.0.0.0/8"]).unwrap();
        assert_eq!(networks.texts(), ["10.0.0.0/8", "192.0.2.1/32"]);
    }
}
