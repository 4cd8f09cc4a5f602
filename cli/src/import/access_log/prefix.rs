//! The part of a line before its time: exactly one host and one ident, then the user.
//!
//! A user's name may hold spaces, which no server escapes, so that a word too many could be a part of it. It is taken
//! for one only when nothing speaks against it: whoever is charged must be who made the call.

use std::str;

use super::Layout;
use crate::import::call::{Host, somebody};

/// Client and user of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prefix<'a> {
    /// The client.
    pub(super) host: Host<'a>,
    /// The user's name, its escapes still in it; none where a client did not sign in.
    pub(super) user: Option<&'a [u8]>,
}

impl<'a> Prefix<'a> {
    /// Reads it; none when it is not of this layout.
    pub(super) fn parse(prefix: &'a [u8], layout: Layout) -> Option<Self> {
        let (first, rest) = match layout {
            Layout::VhostCombined => {
                let (vhost, rest) = word(prefix)?;
                let (host, rest) = word(rest)?;
                // Of a line without a virtual host the client would be taken for one, and its dash for the client.
                let is_client = matches!(Host::of(vhost), Some(Host::Address(client)) if !client.had_port);
                if !is_vhost(vhost) || (host == "-" && is_client) {
                    return None;
                }
                (host, rest)
            }
            Layout::Common | Layout::Combined => word(prefix)?,
        };
        let host = Host::of(first)?;
        let (ident, user) = word(rest)?;
        // Behind a host that is a name only a dash is surely the ident: else the name may be a virtual host's.
        let is_plain = match host {
            Host::Address(_) | Host::Nobody => is_ident(ident),
            Host::Name(_) => somebody(ident).is_none(),
        };
        if !is_plain || !is_user(user, ident) {
            return None;
        }
        let user = str::from_utf8(user).map_or(Some(user), |name| somebody(name).map(str::as_bytes));
        Some(Self { host, user })
    }
}

fn word(text: &[u8]) -> Option<(&str, &[u8])> {
    let (word, rest) = super::word(text)?;
    Some((str::from_utf8(word).ok()?, rest))
}

/// Whether it may be what an ident server answered: no address, of which there would be a list, and no part of one.
fn is_ident(ident: &str) -> bool {
    !matches!(Host::of(ident), Some(Host::Address(_))) && !ident.ends_with([',', ':', ']', '|'])
}

/// Whether it may be a user's name. One word may; several may where the ident is certain, and when none of them is an
/// address, or the dash of an ident or of another user.
fn is_user(user: &[u8], ident: &str) -> bool {
    let mut words = user.split(|byte| *byte == b' ').filter_map(|word| str::from_utf8(word).ok());
    let is_one = !user.contains(&b' ');
    let is_odd =
        |word: &str| matches!(word, "-" | "\"\"") || matches!(Host::of(word), Some(Host::Address(_)));
    is_one || (somebody(ident).is_none() && !words.any(is_odd))
}

/// Whether it may be a virtual host, with or without its port; `_` and `*` stand for any.
fn is_vhost(text: &str) -> bool {
    let name =
        text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(text, |(name, _)| name);
    name == "*" || matches!(Host::of(name), Some(Host::Name(_) | Host::Address(_)))
}
