//! The worker between a real log and a real database.

mod batches;
mod counting;
mod dead_letters;
mod order;
mod periods;
mod support;
mod whole;
mod workers;
