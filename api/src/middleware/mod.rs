//! What every request passes through. Kept thin: one layer for all of it, nothing allocated that a refusal does not
//! need (the hot path answers a call in some 15 µs).

mod envelope;
mod track;

pub use envelope::{Envelope, RequestId, envelope};
pub use track::track;
