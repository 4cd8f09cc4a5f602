//! Who may call, and how fast a suspension is known.

mod credentials;
mod provider;
mod security;
mod strangers;
mod suspension;
