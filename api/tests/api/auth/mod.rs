//! Who may call, and how fast a suspension is known.

mod security;
mod suspension;
