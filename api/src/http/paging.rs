//! Lists: how many items a page has, and the cursors that lead from one page to the next.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserialize, Deserializer, Error};
use sha2::{Digest, Sha256};
use store::Position;

use crate::http::problem::{Code, Problem};

/// Bytes of a cursor's seal.
const SEAL_BYTES: usize = 16;

/// `?limit=`: items a page, 1 to 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageLimit(pub(crate) u32);

impl PageLimit {
    /// Number of items to read: one more than a page has tells whether another one follows.
    pub(crate) fn to_read(self) -> u32 {
        self.0 + 1
    }

    /// Cuts off what is beyond the page; the last item on it, if another page follows.
    pub(crate) fn cut<T>(self, items: &mut Vec<T>) -> Option<&T> {
        let follows = items.len() > self.0 as usize;
        items.truncate(self.0 as usize);
        items.last().filter(|_| follows)
    }
}

impl Default for PageLimit {
    fn default() -> Self {
        Self(50)
    }
}

impl<'de> Deserialize<'de> for PageLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let limit =
            u32::deserialize(deserializer).map_err(|_| D::Error::custom("a limit is from 1 to 500"))?;
        match limit {
            1..=500 => Ok(Self(limit)),
            _ => Err(D::Error::custom("a limit is from 1 to 500")),
        }
    }
}

/// Scope of a cursor: one list, of one user, under one set of filters. A cursor of another list, user or set does not
/// open. Its content is no secret and leads to nothing but the caller's own rows, so the seal needs no key: it tells
/// apart what was issued here from what was mistyped, cut or put together.
pub(crate) struct CursorScope(Sha256);

impl CursorScope {
    /// The scope of `parts`: the list's name, the owner's id, the filters.
    pub(crate) fn new(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash)
    }

    /// Writes a cursor that carries `payload`.
    pub(crate) fn seal(&self, payload: &[u8]) -> String {
        let mut bytes = payload.to_vec();
        bytes.extend_from_slice(&self.tag(payload));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads the payload of a cursor: 400 unless it was issued for this scope.
    pub(crate) fn open(&self, cursor: &str) -> Result<Vec<u8>, Problem> {
        let mut bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| Self::refused())?;
        let payload_bytes = bytes.len().checked_sub(SEAL_BYTES).ok_or_else(Self::refused)?;
        if bytes[payload_bytes..] != self.tag(&bytes[..payload_bytes]) {
            return Err(Self::refused());
        }
        bytes.truncate(payload_bytes);
        Ok(bytes)
    }

    /// Writes a cursor that leads on behind this position of the log.
    pub(crate) fn seal_position(&self, position: Position) -> String {
        let Position { seq, idx } = position;
        self.seal(&[&seq.to_be_bytes()[..], &idx.to_be_bytes()[..]].concat())
    }

    /// Reads the position of a cursor: 400 unless it was issued for this scope.
    pub(crate) fn open_position(&self, cursor: &str) -> Result<Position, Problem> {
        let payload = self.open(cursor)?;
        let position = payload.split_first_chunk::<8>().and_then(|(seq, idx)| {
            Some(Position { seq: u64::from_be_bytes(*seq), idx: u16::from_be_bytes(idx.try_into().ok()?) })
        });
        position.ok_or_else(Self::refused)
    }

    /// 400 for a cursor that is none of this list's.
    pub(crate) fn refused() -> Problem {
        Problem::malformed(
            Code::MalformedCursor,
            "This cursor was not issued for this list and these filters.",
        )
    }

    fn tag(&self, payload: &[u8]) -> [u8; SEAL_BYTES] {
        let digest = self.0.clone().chain_update(payload).finalize();
        let mut tag = [0; SEAL_BYTES];
        tag.copy_from_slice(&digest[..SEAL_BYTES]);
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_in_its_own_scope_only() {
        let scope = CursorScope::new(&[b"calls", b"user", b"filters"]);
        let cursor = scope.seal(b"payload");
        assert_eq!(scope.open(&cursor).unwrap(), b"payload");
        for other in [
            CursorScope::new(&[b"calls", b"user", b"filter"]),
            CursorScope::new(&[b"calls", b"use", b"rfilters"]),
            CursorScope::new(&[b"calls", b"user", b"filtersp"]),
        ] {
            assert_eq!(other.open(&cursor).unwrap_err().code(), Code::MalformedCursor);
        }
    }

    #[test]
    fn a_changed_cursor_does_not_open() {
        let scope = CursorScope::new(&[b"calls"]);
        let cursor = scope.seal(b"payload");
        for index in 0..cursor.len() {
            let mut changed = cursor.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            assert!(scope.open(std::str::from_utf8(&changed).unwrap()).is_err(), "character {index}");
        }
        for bad in ["", "A", "====", "not a cursor", &cursor[1..], &cursor[..cursor.len() - 1]] {
            assert!(scope.open(bad).is_err(), "{bad}");
        }
    }
}
