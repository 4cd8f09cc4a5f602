//! Operations: whether the service lives, is ready, and how it is doing.

pub mod health;
pub(crate) mod healthz;
pub mod metrics;
pub(crate) mod readyz;
