//! Reports of calls: what is accepted counts once.

mod binding;
mod data_keys;
mod encodings;
mod events;
mod forms;
mod sdks;
