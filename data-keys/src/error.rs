//! Failures with data keys and root keys.

use vault::{DataKeyError, EntropyError, KeyRingError, RewrapError};

/// A failure with data keys or root keys. Names keys and shows none.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The root keys cannot be used, or are not those of this database.
    #[error("ENCRYPTION_KEY cannot be used{expected}")]
    Ring {
        /// ` (this database expects the key k1, check value …)`, or nothing when it expects none yet.
        expected: String,
        /// The reason.
        #[source]
        source: KeyRingError,
    },
    /// A stored data key does not open.
    #[error("a user's data key cannot be opened")]
    DataKey(#[from] DataKeyError),
    /// The user has no account, so there is no data key for it.
    #[error("the user has no account")]
    NoAccount,
    /// The ledger's own data key, which was made just now, is not there.
    #[error("the ledger's own data key is not there")]
    NoLedgerKey,
    /// The database is away or refuses.
    #[error("the keys cannot be read")]
    Store(#[from] store::Error),
    /// Random bytes cannot be had.
    #[error("no key can be made")]
    Entropy(#[from] EntropyError),
}

impl KeysError {
    /// The root key that is not configured, if that is the reason.
    pub fn missing_key(&self) -> Option<&vault::RootKeyId> {
        match self {
            Self::DataKey(DataKeyError::UnknownKey { kid }) => Some(kid),
            _ => None,
        }
    }
}

/// [`RewrapError`] without the distinction that no caller makes.
impl From<RewrapError> for KeysError {
    fn from(error: RewrapError) -> Self {
        match error {
            RewrapError::DataKey(error) => Self::DataKey(error),
            RewrapError::Entropy(error) => Self::Entropy(error),
        }
    }
}
