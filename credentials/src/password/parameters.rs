//! What hashing a password costs.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use argon2::{Params, Version};
use password_hash::phc::PasswordHash;

use super::{ARGON2ID, HASH_BYTES};

const MEMORY_KIB: RangeInclusive<u32> = 8 * 1024..=1024 * 1024;
const PASSES: RangeInclusive<u32> = 1..=10;
const LANES: RangeInclusive<u32> = 1..=4;

/// Cost of hashing a password with Argon2id. By default what OWASP's Password Storage Cheat Sheet asks at least:
/// `m=19456,t=2,p=1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// Why a text gives no parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParametersError {
    /// It is of another form.
    #[error("the form is m=19456,t=2,p=1: KiB of memory, passes, lanes")]
    Form,
    /// Too little memory is no protection; too much is none of ours to give.
    #[error("m, the memory, is {} to {} KiB", MEMORY_KIB.start(), MEMORY_KIB.end())]
    Memory,
    /// Passes out of bounds.
    #[error("t, the number of passes, is {} to {}", PASSES.start(), PASSES.end())]
    Passes,
    /// Lanes out of bounds.
    #[error("p, the number of lanes, is {} to {}", LANES.start(), LANES.end())]
    Lanes,
}

impl Parameters {
    /// Parameters within their bounds: 8 MiB to 1 GiB, 1 to 10 passes, 1 to 4 lanes.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, ParametersError> {
        if !MEMORY_KIB.contains(&memory_kib) {
            return Err(ParametersError::Memory);
        }
        if !PASSES.contains(&passes) {
            return Err(ParametersError::Passes);
        }
        if !LANES.contains(&lanes) {
            return Err(ParametersError::Lanes);
        }
        Ok(Self { memory_kib, passes, lanes })
    }

    /// Memory that one hashing takes, in KiB.
    pub const fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// Those that a hash of ours was made with; none if it is not of ours, or costs more than we may give.
    pub(super) fn of(stored: &PasswordHash) -> Option<Self> {
        let is_whole = stored.algorithm.as_str() == ARGON2ID
            && stored.version == Some(Version::V0x13.into())
            && stored.salt.is_some()
            && stored.hash.is_some_and(|hash| hash.len() == HASH_BYTES);
        let params = Params::try_from(stored).ok().filter(|_| is_whole)?;
        Self::new(params.m_cost(), params.t_cost(), params.p_cost()).ok()
    }

    pub(super) fn argon2(self, hash_bytes: usize) -> Params {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(hash_bytes))
            .expect("our bounds are within the library's")
    }
}

impl Default for Parameters {
    fn default() -> Self {
        Self { memory_kib: 19_456, passes: 2, lanes: 1 }
    }
}

impl FromStr for Parameters {
    type Err = ParametersError;

    fn from_str(text: &str) -> Result<Self, ParametersError> {
        let mut parts = text.split(',');
        let mut next = |name: &str| {
            let number = parts.next()?.trim().strip_prefix(name)?;
            number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse::<u32>().ok())?
        };
        let (memory, passes, lanes) = (next("m="), next("t="), next("p="));
        match (memory, passes, lanes, parts.next()) {
            (Some(memory), Some(passes), Some(lanes), None) => Self::new(memory, passes, lanes),
            _ => Err(ParametersError::Form),
        }
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m={},t={},p={}", self.memory_kib, self.passes, self.lanes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_are_within_bounds() {
        for (text, expected) in [
            ("m=19456,t=2,p=1", Ok(Parameters::default())),
            (" m=19456, t=2, p=1 ", Ok(Parameters::default())),
            ("m=8192,t=1,p=1", Parameters::new(8192, 1, 1)),
            ("m=1048576,t=10,p=4", Parameters::new(1_048_576, 10, 4)),
            ("m=8191,t=2,p=1", Err(ParametersError::Memory)),
            ("m=1048577,t=2,p=1", Err(ParametersError::Memory)),
            ("m=19456,t=0,p=1", Err(ParametersError::Passes)),
            ("m=19456,t=11,p=1", Err(ParametersError::Passes)),
            ("m=19456,t=2,p=0", Err(ParametersError::Lanes)),
            ("m=19456,t=2,p=5", Err(ParametersError::Lanes)),
            ("", Err(ParametersError::Form)),
            ("19456,2,1", Err(ParametersError::Form)),
            ("m=19456,t=2", Err(ParametersError::Form)),
            ("m=19456,t=2,p=1,", Err(ParametersError::Form)),
            ("t=2,m=19456,p=1", Err(ParametersError::Form)),
            ("m=+19456,t=2,p=1", Err(ParametersError::Form)),
            ("m=,t=2,p=1", Err(ParametersError::Form)),
            ("m=99999999999,t=2,p=1", Err(ParametersError::Form)),
        ] {
            assert_eq!(text.parse::<Parameters>(), expected, "{text}");
        }
        let memory = ParametersError::Memory.to_string();
        assert_eq!(memory, "m, the memory, is 8192 to 1048576 KiB");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read(memory in MEMORY_KIB, passes in PASSES, lanes in LANES) {
            let made = Parameters::new(memory, passes, lanes).unwrap();
            prop_assert_eq!(made.to_string().parse(), Ok(made));
        }
    }
}
