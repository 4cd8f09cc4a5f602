//! Secrets of 256 random bits: of a session's cookie, a link that is used once, a sign-in that is under way.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::api_key::Hash;

/// Random bytes of a secret.
const BYTES: usize = 32;

/// 256 random bits, written in base64url (RFC 4648 §5) without padding. They are zeroed when it is dropped; it can be
/// printed or serialised by nothing.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret {
    bytes: [u8; BYTES],
    text: String,
}

/// A text that is no secret here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not of the form of a secret")]
pub struct NotASecret;

impl Secret {
    /// Characters of its text.
    pub const TEXT_LEN: usize = 43;

    /// Makes a secret. `fill` fills a buffer with random bytes.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn make<E>(mut fill: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        fill(&mut *bytes)?;
        Ok(Self::of(&bytes))
    }

    /// Reads a secret's text. Each secret has one text: another spelling of the same bits is refused.
    pub fn parse(text: &str) -> Result<Self, NotASecret> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        let is_short = text.len() == Self::TEXT_LEN;
        let read = is_short.then(|| URL_SAFE_NO_PAD.decode_slice(text, &mut *bytes));
        if matches!(read, Some(Ok(BYTES))) { Ok(Self::of(&bytes)) } else { Err(NotASecret) }
    }

    /// The text itself: 43 letters, digits, `-` and `_`. It goes to whom it is for, and nowhere else.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// SHA-256 of its bits, by which it is found.
    pub fn hash(&self) -> Hash {
        Sha256::digest(self.bytes).into()
    }

    /// Another secret that follows from this one, and from which this one does not follow: base64url of HMAC-SHA-256
    /// (RFC 2104) of the label. Its 43 characters will do as a verifier of PKCE (RFC 7636 §4.1) as they are.
    pub fn derive(&self, label: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.bytes).expect("HMAC takes keys of any length");
        mac.update(label.as_bytes());
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }

    fn of(bytes: &[u8; BYTES]) -> Self {
        Self { bytes: *bytes, text: URL_SAFE_NO_PAD.encode(bytes) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Whether two texts are the same, in a time that tells nothing of where they differ. It tells their lengths.
pub fn is_same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn secret(bytes: [u8; BYTES]) -> Secret {
        let made = Secret::make(|buffer| {
            buffer.copy_from_slice(&bytes);
            Ok::<_, Infallible>(())
        });
        made.unwrap()
    }

    /// From `python3`: `hashlib.sha256(bytes(32))`, and `hmac.digest(bytes(32), b"csrf", "sha256")` in base64url.
    #[test]
    fn the_form_is_what_it_says() {
        let zero = secret([0; BYTES]);
        assert_eq!(zero.expose(), "A".repeat(Secret::TEXT_LEN));
        assert_eq!(zero.hash()[..4], [0x66, 0x68, 0x7a, 0xad]);
        assert_eq!(zero.derive("csrf"), "_YMKahCNSratQj9zYMw-cuRR2lNB1vV2sGPJ829PZew");
        assert_ne!(zero.derive("csrf"), zero.derive("pkce"));
        assert_ne!(zero.derive("csrf"), secret([1; BYTES]).derive("csrf"));
        assert_eq!(format!("{zero:?}"), "Secret(…)");
        assert_eq!(Secret::make(|_| Err("no entropy")).err(), Some("no entropy"));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let good = "A".repeat(43);
        for bad in [
            String::new(),
            "A".repeat(42),
            "A".repeat(44),
            format!("{good}="),
            format!(" {}", &good[1..]),
            format!("{}+", &good[1..]),
            format!("{}/", &good[1..]),
            // Bits behind the 256 are set: another spelling of zeros.
            format!("{}B", &good[1..]),
            format!("{}é", &good[2..]),
            "A".repeat(100_000),
        ] {
            assert_eq!(Secret::parse(&bad).err(), Some(NotASecret), "{bad:.60}");
        }
    }

    #[test]
    fn the_same_is_the_same() {
        assert!(is_same("", "") && is_same("abc", "abc"));
        assert!(!is_same("abc", "abd") && !is_same("abc", "ab") && !is_same("", "a"));
    }

    proptest! {
        #[test]
        fn what_is_made_is_read(bytes: [u8; BYTES], label in ".{0,40}") {
            let made = secret(bytes);
            let read = Secret::parse(made.expose()).unwrap();
            prop_assert_eq!(read.hash(), made.hash());
            prop_assert_eq!(read.expose(), made.expose());
            let derived = read.derive(&label);
            prop_assert_eq!(&derived, &made.derive(&label));
            prop_assert!(Secret::parse(&derived).is_ok());
        }
    }
}
