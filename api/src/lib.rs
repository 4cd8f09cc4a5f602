//! HTTP service: authenticates, decides limits, publishes events, reads projections.

pub mod limits;
