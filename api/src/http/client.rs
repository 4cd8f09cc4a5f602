//! Address of a request's client.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use ipnet::IpNet;
use ledger::{address, text};

/// Proxies whose `X-Forwarded-For` and whose ids of requests are believed (`TRUSTED_PROXIES`); nobody's by default.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// Believes proxies in these networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks.into_iter().map(canonical).collect())
    }

    /// Tells whether nobody is believed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether the peer of a request's connection is one of them.
    pub(crate) fn contain_peer(&self, parts: &Parts) -> bool {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        peer.is_some_and(|ConnectInfo(peer)| self.contain(peer.ip().to_canonical()))
    }

    /// Tells whether this is one of them.
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The client's address: the peer of the connection, or, when that is a trusted proxy, the last address of
/// `X-Forwarded-For` that is not one. What stands before an untrusted address, anybody may have written.
pub fn client_address(parts: &Parts, proxies: &TrustedProxies) -> IpAddr {
    let peer = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip().to_canonical());
    if proxies.0.is_empty() || !proxies.contain(peer) {
        return peer;
    }
    let mut client = peer;
    for value in parts.headers.get_all("x-forwarded-for").iter().rev() {
        for hop in value.to_str().unwrap_or_default().rsplit(',') {
            // Some proxies add the port.
            let Some(hop) = address::parse_client(hop.trim()) else { return client };
            client = hop.address;
            if !proxies.contain(client) {
                return client;
            }
        }
    }
    client
}

/// Whom an address stands for: an IPv6 subscriber has a whole /64, and counting single addresses would count nothing.
pub(crate) fn party(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The client's user agent, cut and without what no log should hold; none when it is empty.
pub(crate) fn user_agent(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let agent = headers.get(header::USER_AGENT)?.as_bytes();
    Some(match String::from_utf8_lossy(agent) {
        Cow::Borrowed(agent) => text::clean_user_agent(agent),
        Cow::Owned(agent) => Cow::Owned(text::clean_user_agent(&agent).into_owned()),
    })
    .filter(|agent| !agent.is_empty())
}

/// A network of IPv4 that is written as one of IPv6, as the addresses that are held against it.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let mapped = match network.network() {
        IpAddr::V6(address) => address.to_ipv4_mapped().zip(network.prefix_len().checked_sub(MAPPED_BITS)),
        IpAddr::V4(_) => None,
    };
    let mapped = mapped.and_then(|(address, prefix)| IpNet::new(address.into(), prefix).ok());
    mapped.unwrap_or(network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn parts(peer: &str, forwarded: &[&str]) -> Parts {
        let mut request = Request::builder();
        for value in forwarded {
            request = request.header("x-forwarded-for", *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
        parts
    }

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let proxies = TrustedProxies::new(trusted.iter().map(|net| net.parse().unwrap()).collect());
        client_address(&parts(peer, forwarded), &proxies).to_string()
    }

    #[test]
    fn nobody_is_believed_by_default() {
        assert_eq!(client("198.51.100.1", &["10.9.9.9"], &[]), "198.51.100.1");
        assert_eq!(client("198.51.100.1", &["10.9.9.9"], &["10.0.0.0/8"]), "198.51.100.1");
    }

    #[test]
    fn the_last_untrusted_hop_is_the_client() {
        let trusted = &["10.0.0.0/8"];
        assert_eq!(client("10.0.0.1", &["203.0.113.9"], trusted), "203.0.113.9");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.2"], trusted), "203.0.113.9");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "203.0.113.9:4711"], trusted), "203.0.113.9");
        assert_eq!(client("::ffff:10.0.0.1", &["[2001:db8::5]:80"], trusted), "2001:db8::5");
        assert_eq!(client("10.0.0.1", &["10.0.0.7"], trusted), "10.0.0.7");
    }

    #[test]
    fn mapped_ipv4_is_ipv4_wherever_it_stands() {
        let trusted = &["::ffff:10.0.0.0/104"];
        for peer in ["10.0.0.1", "::ffff:10.0.0.1"] {
            for hop in
                ["203.0.113.9", "::ffff:203.0.113.9", "[::ffff:203.0.113.9]:80", "::ffff:203.0.113.9:80"]
            {
                assert_eq!(client(peer, &[hop], trusted), "203.0.113.9", "{peer} {hop}");
            }
        }
        assert_eq!(client("2001:db8::1", &["203.0.113.9"], &["::/0"]), "203.0.113.9");
        assert_eq!(client("11.0.0.1", &["203.0.113.9"], trusted), "11.0.0.1");
    }

    #[test]
    fn what_is_no_address_ends_the_chain() {
        assert_eq!(client("10.0.0.1", &["203.0.113.9, unknown"], &["10.0.0.0/8"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[], &["10.0.0.0/8"]), "10.0.0.1");
    }
}
