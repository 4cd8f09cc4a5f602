//! Name of the surroundings that API keys are of (`LEDGER_ENV`).

use std::fmt;
use std::str::FromStr;

/// Name of the surroundings, such as `dev` or `prod`: a key of one is none in another, which its text alone tells.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Environment(String);

/// A text that names no surroundings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 16 lower-case letters and digits, such as dev or prod")]
pub struct EnvironmentError;

impl Environment {
    /// Most characters of a name.
    pub const MAX_BYTES: usize = 16;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self("dev".to_owned())
    }
}

impl FromStr for Environment {
    type Err = EnvironmentError;

    fn from_str(text: &str) -> Result<Self, EnvironmentError> {
        let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(is_good) {
            return Ok(Self(text.to_owned()));
        }
        Err(EnvironmentError)
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        for good in ["dev", "p", "0", "staging2", "abcdefghijklmnop"] {
            assert_eq!(good.parse::<Environment>().unwrap().as_str(), good);
        }
        for bad in ["", "Dev", "de-v", "de_v", "dév", " dev", "dev ", "abcdefghijklmnopq"] {
            assert_eq!(bad.parse::<Environment>(), Err(EnvironmentError), "{bad:?}");
        }
    }
}
