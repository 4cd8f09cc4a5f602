//! Derivation of keys from keys.

use hkdf::Hkdf;
use sha2::Sha512;
use zeroize::Zeroizing;

/// HKDF-SHA-512 without salt, 64 bytes of output.
pub(crate) fn derive(secret: &[u8], info: &[u8]) -> Zeroizing<[u8; 64]> {
    let mut out = Zeroizing::new([0; 64]);
    Hkdf::<Sha512>::new(None, secret)
        .expand(info, out.as_mut_slice())
        .expect("64 bytes are one block of SHA-512");
    out
}
