//! What tokens for pages of the host's are made of.

use data_keys::Keys;

use crate::auth::JwtSettings;

/// What tokens for pages are made of.
pub(crate) struct PageTokens {
    /// Names and audience.
    pub(crate) settings: JwtSettings,
    /// The root key that signs.
    pub(crate) keys: Keys,
}
