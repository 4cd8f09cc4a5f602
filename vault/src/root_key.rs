//! The operator's root keys.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::entropy::{Entropy, EntropyError};

/// The operator's root key, from `ENCRYPTION_KEY`: 256 bits written as exactly 64 hexadecimal digits.
///
/// Nothing is sealed under it directly. The key ring derives from it and lets it go; only the import of rows of the
/// older form uses its bytes as they stand.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct RootKey(Box<[u8; 32]>);

/// Why a text is no root key. Never says what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RootKeyError {
    /// There is no text.
    #[error("the key is missing; it must be exactly 64 hexadecimal digits")]
    Missing,
    /// Shorter or longer than 64 characters.
    #[error("the key is {found} characters long; it must be exactly 64 hexadecimal digits")]
    Length {
        /// Number of characters.
        found: usize,
    },
    /// 64 characters, of which one at least is no hexadecimal digit.
    #[error("the key holds a character that is no hexadecimal digit; it must be exactly 64 of them")]
    NotHex,
}

impl RootKey {
    /// Reads a root key. There is no trimming, no padding and no derivation from a pass phrase: what is not a key is an
    /// error.
    pub fn parse(text: &str) -> Result<Self, RootKeyError> {
        if text.is_empty() {
            return Err(RootKeyError::Missing);
        }
        let found = text.chars().count();
        if found != 64 {
            return Err(RootKeyError::Length { found });
        }
        let mut bytes = Box::new([0; 32]);
        if hex::decode_to_slice(text, bytes.as_mut_slice()).is_err() {
            bytes.zeroize();
            return Err(RootKeyError::NotHex);
        }
        Ok(Self(bytes))
    }

    /// A fresh root key.
    pub fn generate<E: Entropy + ?Sized>(entropy: &E) -> Result<Self, EntropyError> {
        let mut key = Self(Box::new([0; 32]));
        entropy.fill(key.0.as_mut_slice())?;
        Ok(key)
    }

    /// The 64 digits, for the operator who keeps them: `keys new` prints them, `dev` stores them.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0.as_slice()))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{RootKey, RootKeyError};
    use crate::OsEntropy;

    #[test]
    fn takes_exactly_64_hexadecimal_digits() {
        assert!(RootKey::parse(&"0f".repeat(32)).is_ok());
        assert!(RootKey::parse(&"0F".repeat(32)).is_ok());
        let refusals = [
            (String::new(), RootKeyError::Missing),
            ("0".repeat(63), RootKeyError::Length { found: 63 }),
            ("0".repeat(65), RootKeyError::Length { found: 65 }),
            ("0".repeat(128), RootKeyError::Length { found: 128 }),
            (format!("{}\n", "0".repeat(64)), RootKeyError::Length { found: 65 }),
            (format!(" {}", "0".repeat(64)), RootKeyError::Length { found: 65 }),
            (format!("0x{}", "0".repeat(62)), RootKeyError::NotHex),
            ("g".repeat(64), RootKeyError::NotHex),
            ("é".repeat(64), RootKeyError::NotHex),
            // 64 bytes, but 32 characters.
            ("é".repeat(32), RootKeyError::Length { found: 32 }),
        ];
        for (text, expected) in refusals {
            assert_eq!(RootKey::parse(&text).err(), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn never_echoes_what_it_refuses() {
        let almost = format!("{}z", "deadbeef".repeat(8).split_at(63).0);
        let error = RootKey::parse(&almost).err().expect("not hexadecimal");
        assert!(!format!("{error} {error:?}").contains("deadbeef"));
    }

    #[test]
    fn a_fresh_key_reads_back_and_differs_from_the_next() {
        let key = RootKey::generate(&OsEntropy).expect("random bytes");
        assert!(RootKey::parse(&key.to_hex()).is_ok_and(|again| again.bytes() == key.bytes()));
        assert_ne!(key.bytes(), RootKey::generate(&OsEntropy).expect("random bytes").bytes());
    }
}
