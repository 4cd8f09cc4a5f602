//! Sources of random bytes.

/// A source of bytes that nobody can predict: initialisation vectors and keys are drawn from it.
///
/// It is a parameter so that a test can repeat a value; production uses [`OsEntropy`].
pub trait Entropy {
    /// Fills `out` wholly, or fails and leaves it unusable.
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError>;
}

/// The operating system gave no random bytes. Nothing may be sealed then.
#[derive(Debug, thiserror::Error)]
#[error("the operating system's random number generator failed")]
pub struct EntropyError(#[source] getrandom::Error);

/// The operating system's generator. Nothing is buffered, so a fork or a snapshot repeats no bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(out).map_err(EntropyError)
    }
}
