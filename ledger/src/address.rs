//! Clients' addresses as logs and proxies write them. IPv4 mapped into IPv6 (RFC 4291 §2.5.5.2), as sockets for both
//! show it, is the same client as its IPv4 address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A client's address, and whether a port stood behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The address, in its one form.
    pub address: IpAddr,
    /// Whether a port was cut.
    pub had_port: bool,
}

/// The address of `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711` or
/// `::ffff:192.0.2.1:4711`. A port behind an IPv6 address in hexadecimal digits alone needs the brackets: without them
/// it is a part of the address.
pub fn parse_client(text: &str) -> Option<Client> {
    let of = |address: IpAddr, had_port| Client { address: address.to_canonical(), had_port };
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(of(address, false));
    }
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']')?;
        let address = IpAddr::V6(address.parse().ok()?);
        return match rest {
            "" => Some(of(address, false)),
            _ => rest.strip_prefix(':').filter(|port| is_port(port)).map(|_| of(address, true)),
        };
    }
    let (address, port) = text.rsplit_once(':')?;
    let is_dotted = address.contains('.');
    (is_dotted && is_port(port)).then(|| address.parse().ok().map(|address| of(address, true))).flatten()
}

/// The text, with an IPv4 address in the place of one that is mapped into IPv6.
pub fn unmapped(text: String) -> String {
    // Whatever else names a user costs a look at its first byte.
    if !matches!(text.as_bytes(), [b':' | b'0', ..]) {
        return text;
    }
    let mapped = text.parse::<Ipv6Addr>().ok().and_then(|address| address.to_ipv4_mapped());
    mapped.map_or(text, |address| address.to_string())
}

/// The texts by which an IPv4 address was written into IPv6, where `text` is one: as sockets show it, and in
/// hexadecimal digits, as some languages do. None of any other text.
pub fn mapped(text: &str) -> Option<[String; 2]> {
    // Whatever else names a user costs a look at its first byte.
    if !text.as_bytes().first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let address = text.parse::<Ipv4Addr>().ok()?;
    let [a, b, c, d] = address.octets().map(u16::from);
    Some([format!("::ffff:{address}"), format!("::ffff:{:x}:{:x}", a << 8 | b, c << 8 | d)])
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(text: &str) -> Option<(String, bool)> {
        parse_client(text).map(|client| (client.address.to_string(), client.had_port))
    }

    #[test]
    fn addresses_are_read_with_and_without_ports() {
        for (text, address, had_port) in [
            ("192.0.2.10", "192.0.2.10", false),
            ("192.0.2.10:61264", "192.0.2.10", true),
            ("192.0.2.10:0", "192.0.2.10", true),
            ("2001:DB8::7", "2001:db8::7", false),
            ("[2001:db8::7]", "2001:db8::7", false),
            ("[2001:db8::7]:61272", "2001:db8::7", true),
            ("::ffff:192.0.2.10", "192.0.2.10", false),
            ("::FFFF:c000:20a", "192.0.2.10", false),
            ("[::ffff:192.0.2.10]:80", "192.0.2.10", true),
            ("::ffff:192.0.2.10:61264", "192.0.2.10", true),
            ("::1", "::1", false),
        ] {
            assert_eq!(client(text), Some((address.to_owned(), had_port)), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in [
            "",
            "-",
            "host",
            "host:80",
            "api.example.test:443",
            "192.0.2.10:",
            "192.0.2.10:+1",
            "192.0.2.10:65536",
            "192.0.2.10,",
            "192.0.2.10, 192.0.2.11",
            "192.0.2",
            "010.0.0.1",
            "[192.0.2.10]:80",
            "[2001:db8::7]80",
            "[2001:db8::7]:x",
            "[2001:db8::7",
            "fe80::1%eth0",
            "unix:",
        ] {
            assert_eq!(client(text), None, "{text}");
        }
    }

    #[test]
    fn only_mapped_addresses_change_their_text() {
        for (text, expected) in [
            ("::ffff:192.0.2.10", "192.0.2.10"),
            ("0:0:0:0:0:FFFF:192.0.2.10", "192.0.2.10"),
            ("0000::ffff:c000:020a", "192.0.2.10"),
            ("192.0.2.10", "192.0.2.10"),
            ("::192.0.2.10", "::192.0.2.10"),
            ("2001:DB8::7", "2001:DB8::7"),
            ("0815", "0815"),
            (":", ":"),
        ] {
            assert_eq!(unmapped(text.to_owned()), expected, "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_knows_how_it_is_mapped() {
        for (text, expected) in [
            ("192.0.2.1", Some(["::ffff:192.0.2.1", "::ffff:c000:201"])),
            ("0.0.0.10", Some(["::ffff:0.0.0.10", "::ffff:0:a"])),
            ("255.255.255.255", Some(["::ffff:255.255.255.255", "::ffff:ffff:ffff"])),
            ("192.0.2.01", None),
            ("192.0.2", None),
            ("2001:db8::7", None),
            ("1", None),
            ("", None),
        ] {
            assert_eq!(mapped(text), expected.map(|texts| texts.map(str::to_owned)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_mapped_is_unmapped_again(address in any::<Ipv4Addr>()) {
            for text in mapped(&address.to_string()).unwrap() {
                prop_assert_eq!(unmapped(text), address.to_string());
            }
        }

        #[test]
        fn a_port_changes_nothing_about_the_client(address in any::<IpAddr>(), port in any::<u16>()) {
            let expected = Client { address: address.to_canonical(), had_port: true };
            let text = std::net::SocketAddr::new(address, port).to_string();
            prop_assert_eq!(parse_client(&text), Some(expected));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-f:.\\[\\]]{0,50}") {
            let _ = (parse_client(&text), unmapped(text));
        }
    }
}
