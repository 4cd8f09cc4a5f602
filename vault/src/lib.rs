//! Sealing of third-party tokens and personal data.
//!
//! A user's secrets are sealed under the user's own *data key* ([`DataKey`]), and data keys are sealed under a *key
//! encryption key* derived from the operator's root key ([`KeyRing`]). Destroying a data key makes everything sealed
//! under it noise, wherever copies of it lie; replacing a root key re-wraps data keys and touches nothing else.
//!
//! The format is fixed to the byte, so that other programs can open what this crate seals:
//!
//! * the codec is A256CBC-HS512 of RFC 7518 §5.2, see [`a256cbc_hs512`];
//! * associated data and derivation labels are length-prefixed fields, see [`lp`];
//! * a sealed value is the JSON object `{"v":2,"kid","dek","encrypted","iv","tag"}`, or the same in one string, see
//!   [`Sealed`].
//!
//! Pure: no I/O and no async. Random bytes come through [`Entropy`], which is the operating system's generator in
//! production. Types that hold a secret zero themselves when dropped and can be neither printed nor serialised:
//!
//! ```compile_fail,E0277
//! let secret = vault::SecretText::new("ghp_example".to_owned());
//! println!("{secret:?}"); // `SecretText` doesn't implement `Debug`
//! ```

pub mod a256cbc_hs512;
mod data_key;
mod derive;
mod entropy;
mod key_ring;
mod ledger_key;
pub mod legacy;
mod lower_hex;
mod lp;
mod names;
mod role_key;
mod root_key;
mod sealed;
mod secret;
mod token;

pub use a256cbc_hs512::OpenError;
pub use data_key::{DataKey, Fingerprint};
pub use entropy::{Entropy, EntropyError, OsEntropy};
pub use key_ring::{DataKeyError, KeyCheck, KeyRing, KeyRingError, RewrapError, Startup};
pub use ledger_key::LedgerKey;
pub use lp::lp;
pub use names::{DekId, NameError, RootKeyId};
pub use role_key::RoleKey;
pub use root_key::{RootKey, RootKeyError};
pub use sealed::Sealed;
pub use secret::SecretText;
pub use token::{TOKEN_BYTES_MAX, TokenKind, TokenKindError, TokenNote, TokenRefused, mask};
