//! Passwords: how they are read, hashed with Argon2id (RFC 9106), and told weak from strong.
//!
//! Hashing takes memory and time on purpose: some 20 MiB and some 20 ms by default. It is done in few threads of its
//! own, and not in a task.

mod parameters;
mod policy;
#[cfg(test)]
mod tests;

use std::fmt;

use argon2::{Algorithm, Argon2, Version};
use password_hash::phc::{Output, PasswordHash, Salt};
use password_hash::{CustomizedPasswordHasher, PasswordVerifier};
use unicode_normalization::UnicodeNormalization;
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use parameters::{Parameters, ParametersError};
pub use policy::{Policy, Weak};

/// Most bytes of a password, normalised.
pub const MAX_PASSWORD_BYTES: usize = 1024;
/// Random bytes with which a password is hashed.
pub const SALT_BYTES: usize = 16;

/// Bytes of a hash.
const HASH_BYTES: usize = 32;
/// Most bytes of a character: no text of more than that for each byte of a password can become one.
const UTF8_BYTES_MAX: usize = 4;
const ARGON2ID: &str = "argon2id";

/// A password as somebody typed it, in Unicode's form NFKC, for keyboards differ in how they write `é`. It is zeroed
/// when it is dropped; it can be compared, printed or serialised by nothing.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Password(String);

/// A password is too long to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a password has at most {MAX_PASSWORD_BYTES} bytes")]
pub struct TooLong;

/// Whether a password is the one that was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// It is.
    Yes {
        /// The hash was made with other parameters than today's: make it anew, now that the password is at hand.
        rehash: bool,
    },
    /// It is another one.
    No,
}

/// Reason why a password is neither hashed nor verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// There is no memory for it now.
    #[error("no memory to hash a password in")]
    OutOfMemory,
    /// What is stored is no hash of Argon2id within the bounds of [`Parameters`].
    #[error("what is stored of a password is not of the form of its hash")]
    Stored,
    /// The library refuses, which is a mistake of ours.
    #[error("a password cannot be hashed")]
    Library(#[source] password_hash::Error),
}

impl Password {
    /// Reads a password, of whatever strength: those of a sign-in are as they are. See [`Policy`] for new ones.
    pub fn new(text: &str) -> Result<Self, TooLong> {
        if text.len() > MAX_PASSWORD_BYTES * UTF8_BYTES_MAX {
            return Err(TooLong);
        }
        // All at once: a text that grows leaves copies of itself behind.
        let mut normal = Self(String::with_capacity(MAX_PASSWORD_BYTES + UTF8_BYTES_MAX));
        for character in text.nfkc() {
            normal.0.push(character);
            if normal.0.len() > MAX_PASSWORD_BYTES {
                return Err(TooLong);
            }
        }
        Ok(normal)
    }

    /// The password itself, normalised.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Hashes a password with a salt of random bytes. The answer, in the PHC format, names the parameters.
pub fn hash(
    password: &Password,
    salt: &[u8; SALT_BYTES],
    parameters: &Parameters,
) -> Result<String, HashError> {
    let made: PasswordHash = hasher(parameters)
        .hash_password_customized(
            password.expose().as_bytes(),
            salt,
            None,
            None,
            parameters.argon2(HASH_BYTES),
        )
        .map_err(HashError::of)?;
    Ok(made.to_string())
}

/// Whether this is the password that was hashed, with the parameters that the hash names. `today` are those that it
/// should have been made with.
pub fn verify(password: &Password, phc: &str, today: &Parameters) -> Result<Verified, HashError> {
    let stored = PasswordHash::new(phc).map_err(|_| HashError::Stored)?;
    let made_with = Parameters::of(&stored).ok_or(HashError::Stored)?;
    match hasher(&made_with).verify_password(password.expose().as_bytes(), &stored) {
        Ok(()) => Ok(Verified::Yes { rehash: made_with != *today }),
        Err(password_hash::Error::PasswordInvalid) => Ok(Verified::No),
        Err(error) => Err(HashError::of(error)),
    }
}

/// A hash that no password is known to have, to verify against where there is no user, so that it takes as long as with
/// one. Its cost is that of the parameters, so it is made again when they change.
pub fn decoy(parameters: &Parameters) -> String {
    // Nobody knows what hashes to zeros, nor is it asked: the caller says no whatever comes out.
    let salt = Salt::new(&[0; SALT_BYTES]).expect("16 bytes are a salt");
    let output = Output::new(&[0; HASH_BYTES]).expect("32 bytes are a hash");
    let params = parameters.argon2(HASH_BYTES);
    let made = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: (&params).try_into().expect("parameters within bounds can be written"),
        salt: Some(salt),
        hash: Some(output),
    };
    made.to_string()
}

fn hasher(parameters: &Parameters) -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters.argon2(HASH_BYTES))
}

impl HashError {
    fn of(error: password_hash::Error) -> Self {
        match error {
            password_hash::Error::OutOfMemory => Self::OutOfMemory,
            other => Self::Library(other),
        }
    }
}
