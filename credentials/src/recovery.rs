//! Recovery codes: what lets a person in who has lost the second factor, each of them once.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::api_key::Hash;

/// Random bytes of a code: 80 bits.
const BYTES: usize = 10;
/// Bits that a character holds.
const BITS: usize = 5;
/// Characters of a code, without hyphens.
const CHARACTERS: usize = 8 * BYTES / BITS;
/// Characters between two hyphens.
const GROUP: usize = 4;
/// Crockford's: without I, L and O, which are read as 1 and 0, and without U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Most bytes of what is read as a code: as many blanks and hyphens as characters, and some.
const TEXT_BYTES_MAX: usize = 64;

/// A recovery code: 80 random bits. They are zeroed when it is dropped; it can be printed or serialised by nothing.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct RecoveryCode([u8; BYTES]);

/// A text that is no recovery code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a recovery code has 16 letters and digits, like 7K2M-9QXA-41CD-H0ZT")]
pub struct NotACode;

impl RecoveryCode {
    /// Codes that a user is given at once.
    pub const COUNT: usize = 10;

    /// Makes a user's codes. `fill` fills a buffer with random bytes.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn make_all<E>(mut fill: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<[Self; Self::COUNT], E> {
        let mut codes = std::array::from_fn(|_| Self([0; BYTES]));
        for code in &mut codes {
            fill(&mut code.0)?;
        }
        Ok(codes)
    }

    /// Reads a code as people write it: in any case, with blanks and hyphens anywhere, O for 0, I or L for 1.
    pub fn parse(text: &str) -> Result<Self, NotACode> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(NotACode);
        }
        let mut bits: u128 = 0;
        let mut count = 0;
        for character in text.chars().filter(|character| !character.is_whitespace() && *character != '-') {
            let letter = match character.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let digit = ALPHABET.iter().position(|known| char::from(*known) == letter).ok_or(NotACode)?;
            bits = bits << BITS | digit as u128;
            count += 1;
        }
        let mut code = Self([0; BYTES]);
        let whole = bits.to_be_bytes();
        code.0.copy_from_slice(&whole[whole.len() - BYTES..]);
        bits.zeroize();
        if count == CHARACTERS { Ok(code) } else { Err(NotACode) }
    }

    /// The code itself, as `XXXX-XXXX-XXXX-XXXX`. It is shown to its user, once, and goes nowhere else.
    pub fn expose(&self) -> String {
        let bits = self.0.iter().fold(0, |bits: u128, byte| bits << 8 | u128::from(*byte));
        let mut text = String::with_capacity(CHARACTERS + CHARACTERS / GROUP);
        for at in 0..CHARACTERS {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            let digit = bits >> (BITS * (CHARACTERS - 1 - at)) & 31;
            text.push(char::from(ALPHABET[digit as usize]));
        }
        text
    }

    /// SHA-256 of its bits and the user's id: what is stored of it. The same code of another user has another hash, so
    /// that a table of hashes is of use for one user alone.
    pub fn hash(&self, user: Uuid) -> Hash {
        Sha256::new().chain_update(self.0).chain_update(user.as_bytes()).finalize().into()
    }
}

impl fmt::Debug for RecoveryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryCode(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    const USER: Uuid = Uuid::from_u128(7);

    fn code(bytes: [u8; BYTES]) -> RecoveryCode {
        RecoveryCode(bytes)
    }

    #[test]
    fn the_form_is_what_it_says() {
        assert_eq!(code([0; BYTES]).expose(), "0000-0000-0000-0000");
        assert_eq!(code([255; BYTES]).expose(), "ZZZZ-ZZZZ-ZZZZ-ZZZZ");
        let counted = code([0x00, 0x44, 0x32, 0x14, 0xc7, 0x42, 0x54, 0xb6, 0x35, 0xcf]);
        assert_eq!(counted.expose(), "0123-4567-89AB-CDEF");
        assert_eq!(format!("{counted:?}"), "RecoveryCode(…)");
        // `hashlib.sha256(bytes(10) + uuid.UUID(int=7).bytes)`.
        assert_eq!(code([0; BYTES]).hash(USER)[..4], [0xe5, 0x0a, 0xce, 0xda]);
        assert_ne!(code([0; BYTES]).hash(USER), code([0; BYTES]).hash(Uuid::from_u128(8)));
    }

    #[test]
    fn a_user_s_codes_are_drawn_one_by_one() {
        let mut drawn = 0;
        let codes = RecoveryCode::make_all(|bytes| {
            bytes.fill(drawn);
            drawn += 1;
            Ok::<_, Infallible>(())
        });
        for (number, code) in codes.unwrap().iter().enumerate() {
            assert_eq!(code.0, [u8::try_from(number).unwrap(); BYTES]);
        }
        assert_eq!(usize::from(drawn), RecoveryCode::COUNT);
        assert_eq!(RecoveryCode::make_all(|_| Err("no entropy")).err(), Some("no entropy"));
    }

    #[test]
    fn what_people_write_is_read() {
        let expected = RecoveryCode::parse("0101-1189-ABCD-EFGH").unwrap();
        for text in [
            "0101-1189-abcd-efgh",
            "01011189abcdefgh",
            "  0101 1189 abcd efgh \r\n",
            "0-1-0-1-1-1-8-9-A-B-C-D-E-F-G-H",
            "OIol-lI89-ABCD-EFGH",
        ] {
            assert_eq!(RecoveryCode::parse(text).unwrap().0, expected.0, "{text}");
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in [
            "",
            "----",
            "0101-1189-ABCD-EFG",
            "0101-1189-ABCD-EFGH-0",
            "0101-1189-ABCD-EFGU",
            "0101-1189-ABCD-EFG_",
            "0101_1189_ABCD_EFGH",
            "０101-1189-ABCD-EFGH",
            "0101–1189–ABCD–EFGH",
            &"0".repeat(100_000),
            &format!("{}0101-1189-ABCD-EFGH", " ".repeat(64)),
        ] {
            assert_eq!(RecoveryCode::parse(text).err(), Some(NotACode), "{text:.60}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read(bytes: [u8; BYTES]) {
            let made = code(bytes);
            let read = RecoveryCode::parse(&made.expose()).unwrap();
            prop_assert_eq!(read.0, bytes);
            prop_assert_eq!(read.hash(USER), made.hash(USER));
            let relaxed = made.expose().to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
            prop_assert_eq!(RecoveryCode::parse(&relaxed).unwrap().0, bytes);
        }
    }
}
