//! Reports of calls: what is accepted counts once.

mod data_keys;
mod events;
mod forms;
