//! Names of root keys and of data keys.

use std::fmt;
use std::str::FromStr;

/// The longest name of a root key or a data key, in bytes.
const NAME_BYTES_MAX: usize = 32;

/// A key's name is not 1..=32 characters of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key's name must be 1 to {NAME_BYTES_MAX} characters of A-Z a-z 0-9 . _ -")]
pub struct NameError;

/// So narrow an alphabet needs escaping neither in JSON nor in `kid:hex,kid:hex`.
fn check(name: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(NameError);
    }
    Ok(())
}

/// The name of a root key, and of the key encryption key derived from it (`ENCRYPTION_KEY_ID`, by default `k1`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootKeyId(Box<str>);

/// The name of one of a user's data keys; it is unique for that user only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DekId(Box<str>);

impl DekId {
    /// The name of every user's first data key.
    pub fn first() -> Self {
        Self("d1".into())
    }
}

impl RootKeyId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DekId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RootKeyId {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        check(name)?;
        Ok(Self(name.into()))
    }
}

impl FromStr for DekId {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        check(name)?;
        Ok(Self(name.into()))
    }
}

impl fmt::Display for RootKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
