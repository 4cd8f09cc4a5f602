//! The worker between a real log and a real database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod batches;
mod counting;
mod dead_letters;
mod erasures;
mod gaps;
mod hours;
mod lost_log;
mod million;
mod order;
mod outages;
mod periods;
mod personal;
mod rebuild;
mod rollover;
mod sealed;
mod summaries;
mod support;
mod tokens;
mod whole;
mod workers;
