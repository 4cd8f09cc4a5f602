//! Configuration of the root keys.

use secrecy::{ExposeSecret as _, SecretString};
use vault::{KeyRing, KeyRingError};

/// The root keys as they are configured; read when a process starts.
#[derive(Clone, Debug, Default)]
pub struct KeyConfig {
    /// `ENCRYPTION_KEY`: 64 hexadecimal digits; empty when nobody set it.
    pub key: SecretString,
    /// `ENCRYPTION_KEY_ID`: its name.
    pub kid: String,
    /// `ENCRYPTION_KEY_PREVIOUS`: earlier ones, `kid:hex,kid:hex`; empty for none.
    pub previous: SecretString,
}

impl KeyConfig {
    /// Reads the three variables; `get` answers a variable's value, if it is set. Whether they are good shows at the
    /// start, when the database can tell which root key is expected.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Self {
        let secret = |name| SecretString::from(get(name).unwrap_or_default());
        Self {
            key: secret("ENCRYPTION_KEY"),
            kid: get("ENCRYPTION_KEY_ID").unwrap_or_else(|| "k1".to_owned()),
            previous: secret("ENCRYPTION_KEY_PREVIOUS"),
        }
    }

    /// The root keys, made ready. Nothing says yet that they are those of a database: [`crate::ring`] does.
    pub fn ring(&self) -> Result<KeyRing, KeyRingError> {
        KeyRing::from_config(self.key.expose_secret(), self.kid.trim(), self.previous.expose_secret())
    }
}
