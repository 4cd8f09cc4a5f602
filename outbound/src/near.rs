//! Hosts that may be asked by plain http.

use std::net::IpAddr;

use url::Host;

/// Whether the host is this machine or in a network of one's own: a proxy at our side, by an address that is not routed
/// (RFC 1918, RFC 4193) or by a name of one label, which only such a network resolves.
pub(crate) fn is_near(host: &Host<&str>) -> bool {
    let address = match host {
        Host::Domain(name) => return !name.contains('.') || name.ends_with(".localhost"),
        Host::Ipv4(address) => IpAddr::V4(*address),
        Host::Ipv6(address) => address.to_canonical(),
    };
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}
