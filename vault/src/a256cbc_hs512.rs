//! A256CBC-HS512: AES-256 in CBC mode with PKCS #7 padding, then HMAC-SHA-512 cut to 256 bits ([RFC 7518 §5.2]).
//!
//! The key's first half authenticates, its second half encrypts. The tag covers the associated data, the
//! initialisation vector and the ciphertext, so that nothing is decrypted before all of them are known to be whole.
//!
//! [RFC 7518 §5.2]: https://www.rfc-editor.org/rfc/rfc7518#section-5.2

use aes::{Aes256Dec, Aes256Enc};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha512;
use subtle::ConstantTimeEq;
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// Bytes in a cipher block, and in an initialisation vector.
const BLOCK_BYTES: usize = 16;

/// Bytes in a tag.
pub(crate) const TAG_BYTES: usize = 32;

/// The one error of everything that does not open: a wrong key, another owner, one changed bit, a missing tag. It
/// tells nobody which of them it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed value does not open")]
pub struct OpenError;

/// Encrypts `plaintext` and authenticates it with `aad`; answers the ciphertext and the tag.
///
/// `iv` must never be used twice with one key: draw it from the operating system's generator.
pub fn seal(key: &[u8; 64], iv: &[u8; 16], aad: &[u8], plaintext: &[u8]) -> (Vec<u8>, [u8; TAG_BYTES]) {
    Schedule::new(key).seal(iv, aad, plaintext)
}

/// Opens what [`seal`] made with the same key and associated data. The tag is compared in constant time before
/// anything is decrypted.
pub fn open(
    key: &[u8; 64],
    iv: &[u8; 16],
    aad: &[u8],
    ciphertext: &[u8],
    tag: &[u8],
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    Schedule::new(key).open(iv, aad, ciphertext, tag)
}

/// One key made ready: setting up the HMAC and the AES rounds costs as much as sealing a short value, so whoever
/// uses a key more than once keeps this.
pub(crate) struct Schedule {
    mac: Hmac<Sha512>,
    encrypt: Aes256Enc,
    decrypt: Aes256Dec,
}

/// The parts zero themselves, which the compiler checks here; so this type needs no `Drop` of its own. An HMAC says
/// nothing of itself, but it consists of the same two states and buffer as the hash, and those do.
const _: () = {
    const fn zeroed_on_drop<T: ZeroizeOnDrop>() {}
    zeroed_on_drop::<Sha512>();
    zeroed_on_drop::<Aes256Enc>();
    zeroed_on_drop::<Aes256Dec>();
};

impl Schedule {
    pub(crate) fn new(key: &[u8; 64]) -> Self {
        let (mac_key, enc_key) = key.split_at(32);
        let encrypt = Aes256Enc::new_from_slice(enc_key).expect("half of 64 bytes is an AES-256 key");
        Self {
            mac: Hmac::new_from_slice(mac_key).expect("HMAC takes a key of any length"),
            decrypt: Aes256Dec::from(&encrypt),
            encrypt,
        }
    }

    pub(crate) fn seal(&self, iv: &[u8; 16], aad: &[u8], plaintext: &[u8]) -> (Vec<u8>, [u8; TAG_BYTES]) {
        // The padding is never empty. One buffer of the final size, so that no copy of the plaintext is left behind
        // by a reallocation.
        let mut buffer = vec![0; (plaintext.len() / BLOCK_BYTES + 1) * BLOCK_BYTES];
        buffer[..plaintext.len()].copy_from_slice(plaintext);
        cbc::Encryptor::inner_iv_init(&self.encrypt, iv.into())
            .encrypt_padded::<Pkcs7>(&mut buffer, plaintext.len())
            .expect("the buffer has room for the padding");
        let tag = self.tag(iv, aad, &buffer);
        (buffer, tag)
    }

    pub(crate) fn open(
        &self,
        iv: &[u8; 16],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let expected = self.tag(iv, aad, ciphertext);
        // Slices of unequal length are unequal; a shortened tag is no tag.
        if !bool::from(expected.as_slice().ct_eq(tag)) {
            return Err(OpenError);
        }
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        let length = cbc::Decryptor::inner_iv_init(&self.decrypt, iv.into())
            .decrypt_padded::<Pkcs7>(&mut plaintext)
            .map_err(|_| OpenError)?
            .len();
        plaintext.truncate(length);
        Ok(plaintext)
    }

    /// HMAC over AAD ‖ IV ‖ ciphertext ‖ AL, where AL is the AAD's length in bits as a big-endian 64-bit number; the
    /// first half of it is the tag.
    fn tag(&self, iv: &[u8; 16], aad: &[u8], ciphertext: &[u8]) -> [u8; TAG_BYTES] {
        let aad_bits = aad.len() as u64 * 8;
        let mut mac = self.mac.clone();
        mac.update(aad);
        mac.update(iv);
        mac.update(ciphertext);
        mac.update(&aad_bits.to_be_bytes());
        let full = mac.finalize().into_bytes();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&full[..TAG_BYTES]);
        tag
    }
}
