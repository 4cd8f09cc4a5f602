//! API keys: `ul_<env>_`, 30 random characters, and 6 of a CRC-32 over all that.
//!
//! All of it is letters, digits and `_`, so that a double click takes the whole key and scanners find it. The checksum
//! is GitHub's idea (their token formats of 2021): what was mistyped or made up is refused without a look-up.

use std::fmt;

use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::environment::Environment;

/// Beginning of every key, which tells it from other credentials.
pub const PREFIX: &str = "ul_";
/// Most bytes of a key.
pub const MAX_KEY_BYTES: usize = PREFIX.len() + Environment::MAX_BYTES + 1 + RANDOM + CHECK;

/// Random characters: 178 bits.
const RANDOM: usize = 30;
/// Characters of the checksum: 62^6 is more than 2^32.
const CHECK: usize = 6;
/// Random characters that are shown of a key, to tell it from others of the list.
const SHOWN: usize = 4;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The largest multiple of 62 that a byte holds: bytes from here on are drawn again, or some characters would be
/// likelier.
const FAIR: u8 = 248;

/// SHA-256 of a key: what is stored of it.
pub type Hash = [u8; 32];

/// An API key. Its bytes are zeroed when it is dropped; it can be compared, printed or serialised by nothing.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct ApiKey(String);

/// Reason why a text is no key here. It says nothing about which keys there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It has not the form of a key.
    #[error("not of the form of an API key")]
    Form,
    /// Its checksum is another one: it is mistyped, or made up.
    #[error("the API key's checksum is wrong")]
    Checksum,
    /// It is a key of other surroundings.
    #[error("an API key of another environment")]
    Environment,
}

impl ApiKey {
    /// Makes a key of these surroundings. `fill` fills a buffer with random bytes.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn make<E>(
        environment: &Environment,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut key = String::with_capacity(MAX_KEY_BYTES);
        key.extend([PREFIX, environment.as_str(), "_"]);
        let whole = key.len() + RANDOM;
        let mut bytes = [0; 2 * RANDOM];
        while key.len() < whole {
            fill(&mut bytes)?;
            let fair = bytes.iter().filter(|byte| **byte < FAIR);
            let missing = whole - key.len();
            key.extend(fair.take(missing).map(|byte| char::from(ALPHABET[usize::from(byte % 62)])));
        }
        bytes.zeroize();
        let check = checksum(&key);
        key.extend(check.map(char::from));
        Ok(Self(key))
    }

    /// Tells whether a text means to be a key, by its beginning.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Reads a key of these surroundings. Its form, checksum and environment are right then; whether there is such a
    /// key is another question.
    pub fn parse(text: &str, environment: &Environment) -> Result<Self, Malformed> {
        let rest = text.strip_prefix(PREFIX).filter(|_| text.len() <= MAX_KEY_BYTES);
        let (named, secret) = rest.and_then(|rest| rest.split_once('_')).ok_or(Malformed::Form)?;
        if secret.len() != RANDOM + CHECK || !secret.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Malformed::Form);
        }
        let of: Environment = named.parse().map_err(|_| Malformed::Form)?;
        let (body, check) = text.split_at(text.len() - CHECK);
        if check.as_bytes() != checksum(body) {
            return Err(Malformed::Checksum);
        }
        if of != *environment {
            return Err(Malformed::Environment);
        }
        Ok(Self(text.to_owned()))
    }

    /// The key itself. It is shown to whoever made it, once, and goes nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The hash by which it is found.
    pub fn hash(&self) -> Hash {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// Its beginning, which may be shown: the environment and four characters.
    pub fn shown_prefix(&self) -> &str {
        &self.0[..self.0.len() - RANDOM - CHECK + SHOWN]
    }

    /// Its last four characters, which may be shown.
    pub fn last_four(&self) -> &str {
        &self.0[self.0.len() - SHOWN..]
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// CRC-32 (IEEE 802.3) in base 62, the most significant digit first.
fn checksum(body: &str) -> [u8; CHECK] {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [0; CHECK];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    const EXPECTED: &str = "4VjMBQ";
    /// The first bytes of `sha256sum` of that key.
    const HASH: [u8; 4] = [0xcb, 0x0c, 0xb5, 0x95];

    fn dev() -> Environment {
        Environment::default()
    }

    fn key(environment: &Environment, mut seed: u64) -> ApiKey {
        // SplitMix64 (Steele et al. 2014): any bytes will do here.
        let fill = |bytes: &mut [u8]| {
            for byte in bytes {
                seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                *byte = (mixed >> 56) as u8;
            }
            Ok::<_, Infallible>(())
        };
        ApiKey::make(environment, fill).unwrap()
    }

    fn fault(text: &str) -> Option<Malformed> {
        ApiKey::parse(text, &dev()).err()
    }

    /// `python3 -c "import zlib; print(zlib.crc32(b'ul_dev_' + b'0' * 30))"` is 4133407780, in base 62 `4VjMBQ`.
    #[test]
    fn the_form_is_what_it_says() {
        let zero = ApiKey::make(&dev(), |bytes| {
            bytes.fill(0);
            Ok::<_, Infallible>(())
        });
        let zero = zero.unwrap();
        assert_eq!(zero.expose(), format!("ul_dev_{}{}", "0".repeat(30), EXPECTED));
        assert_eq!((zero.shown_prefix(), zero.last_four()), ("ul_dev_0000", &EXPECTED[2..]));
        assert_eq!(format!("{zero:?}"), "ApiKey(…)");
        assert_eq!(zero.hash()[..4], HASH);
    }

    #[test]
    fn unfair_bytes_are_drawn_again() {
        let mut drawn = 0;
        let made = ApiKey::make(&dev(), |bytes| {
            drawn += 1;
            bytes.fill(if drawn < 3 { 255 } else { 61 });
            Ok::<_, Infallible>(())
        });
        assert!(made.unwrap().expose().starts_with(&format!("ul_dev_{}", "z".repeat(30))));
        assert_eq!(drawn, 3);
        let failed = ApiKey::make(&dev(), |_| Err("no entropy"));
        assert_eq!(failed.err(), Some("no entropy"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let good = key(&dev(), 1);
        let good = good.expose();
        assert_eq!(fault(good), None);
        let (head, tail) = good.split_at(good.len() - 1);
        let other = if tail == "0" { "1" } else { "0" };
        let prod = key(&"prod".parse().unwrap(), 1);
        let random = &good["ul_dev_".len()..];
        for (text, expected) in [
            (String::new(), Malformed::Form),
            ("ul_".to_owned(), Malformed::Form),
            ("ul_dev_".to_owned(), Malformed::Form),
            (good[1..].to_owned(), Malformed::Form),
            (good.to_uppercase(), Malformed::Form),
            (format!(" {good}"), Malformed::Form),
            (format!("{good} "), Malformed::Form),
            (format!("{good}0"), Malformed::Form),
            (head.to_owned(), Malformed::Form),
            (format!("ul_{random}"), Malformed::Form),
            (format!("ul__{random}"), Malformed::Form),
            (format!("ul_DEV_{random}"), Malformed::Form),
            (format!("ul_dev-1_{random}"), Malformed::Form),
            (format!("ul_dev_{}", "é".repeat(18)), Malformed::Form),
            (format!("ul_dev_{}-{}", &random[..17], &random[18..]), Malformed::Form),
            (format!("ul_{}_{random}", "d".repeat(17)), Malformed::Form),
            (format!("ul_dev_{}", "0".repeat(100_000)), Malformed::Form),
            (format!("{head}{other}"), Malformed::Checksum),
            // The checksum is over the environment, too.
            (format!("ul_prod_{random}"), Malformed::Checksum),
            (prod.expose().to_owned(), Malformed::Environment),
        ] {
            assert_eq!(fault(&text), Some(expected), "{text:.60}");
        }
    }

    proptest! {
        #[test]
        fn what_is_made_is_read_and_one_character_more_or_less_is_not(
            seed: u64,
            at in 7..43_usize,
            with in "[0-9A-Za-z]",
        ) {
            let made = key(&dev(), seed);
            let read = ApiKey::parse(made.expose(), &dev()).unwrap();
            prop_assert_eq!(read.hash(), made.hash());
            let mut changed = made.expose().to_owned();
            changed.replace_range(at..=at, &with);
            let expected = (changed != made.expose()).then_some(Malformed::Checksum);
            prop_assert_eq!(fault(&changed), expected);
        }
    }
}
