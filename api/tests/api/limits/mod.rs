//! Limits, which no call passes.

mod exact;
mod flood;
