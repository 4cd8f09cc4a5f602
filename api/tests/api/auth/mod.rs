//! Who may call, and how fast a suspension is known.

mod credentials;
mod provider;
mod refused;
pub(crate) mod security;
mod strangers;
mod suspension;
