//! The ledger's own data key, opened.

use std::fmt;

use zeroize::Zeroizing;

use crate::data_key::keyed_hash;

/// The ledger's own data key: it hashes what outlives a user's. Zeroed on drop.
///
/// Its hashes are derived under the nil UUID in the place of a user, as they were from the start: they are stored.
pub struct LedgerKey(Box<Zeroizing<[u8; 64]>>);

impl LedgerKey {
    pub(crate) fn new(bytes: &[u8; 64]) -> Self {
        Self(Box::new(Zeroizing::new(*bytes)))
    }

    /// Hash of an external id, kept when its user is erased: enough to recognise the id when it comes again, and
    /// nothing that tells it. The first 32 bytes of HMAC-SHA-512 over the id, under HKDF-SHA-512(this key, no salt,
    /// `lp("usage-ledger/v2/external-id", nil UUID)`, 64 bytes).
    pub fn external_id_hash(&self, external_id: &str) -> [u8; 32] {
        keyed_hash(&self.0, uuid::Uuid::nil(), b"usage-ledger/v2/external-id", external_id.as_bytes())
    }
}

impl fmt::Debug for LedgerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LedgerKey(..)")
    }
}
