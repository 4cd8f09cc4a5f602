//! Keys that sign tokens of roles.

use zeroize::Zeroizing;

use crate::derive::derive;
use crate::lp::lp;
use crate::names::RootKeyId;
use crate::root_key::RootKey;

/// Signs and verifies the bearer tokens whose role is believed: HKDF-SHA-512(root key, no salt,
/// info = `lp("usage-ledger/v2/roles", kid)`, 64 bytes).
///
/// Whoever may mint a role holds the vault's root; the secret under which a host signs its users' tokens gives none.
pub struct RoleKey(Box<Zeroizing<[u8; 64]>>);

impl RoleKey {
    pub(crate) fn derive(kid: &RootKeyId, root: &RootKey) -> Self {
        Self(Box::new(derive(root.bytes(), &lp(&[b"usage-ledger/v2/roles", kid.as_str().as_bytes()]))))
    }

    /// The key, for whoever signs or verifies with it.
    pub fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }
}
