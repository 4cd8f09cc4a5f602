//! Limits, which no call passes.

mod backlog;
mod exact;
mod flood;
mod reported;
mod takeover;
