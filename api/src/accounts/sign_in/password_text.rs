//! Passwords in bodies of requests.

use std::fmt;
use std::sync::Arc;

use credentials::password::Password;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::error::SignInError;

/// A password as somebody sends it. Printed by nothing.
pub(super) struct PasswordText(Zeroizing<String>);

impl fmt::Debug for PasswordText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordText(…)")
    }
}

impl<'de> Deserialize<'de> for PasswordText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl PasswordText {
    /// The password that somebody signs in with; one that cannot be anybody's is wrong.
    pub(super) fn given(&self) -> Result<Arc<Password>, SignInError> {
        Password::new(&self.0).map(Arc::new).map_err(|_| SignInError::Wrong)
    }

    /// A password to be set. Whether it is strong enough, [`super::hasher::Hasher::choose`] says.
    pub(super) fn chosen(&self) -> Result<Arc<Password>, SignInError> {
        Password::new(&self.0).map(Arc::new).map_err(|error| weak(error.to_string()))
    }
}

/// Refusal of a new password.
pub(super) fn weak(detail: String) -> SignInError {
    SignInError::Field { field: "password", code: "weak", detail }
}
