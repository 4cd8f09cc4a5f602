//! Accounts: made, exported, erased.

mod erase;
mod export;
mod mapped;
mod put;
